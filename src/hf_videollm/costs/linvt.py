"""Counts the parameters of LinVT for real image-LLMs, and compares with the paper. No weights or memory are needed."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import nn

from ..models.configuration_linvt import LinVTModuleConfig
from ..models.linvt_module import LinVTModule

MILLION = 10**6
# The number in Appendix A of the paper, which does not say for which image-LLM.
PUBLISHED = 267 * MILLION
# Width of the language model -> image-LLMs with this width.
IMAGE_LLMS: dict[int, tuple[str, ...]] = {
    896: ("InternVL2-1B", "LLaVA-OneVision-0.5B"),
    1536: ("Aquila-VL-2B", "Qwen2-VL-2B"),
    2048: ("Mipha-1.6B", "InternVL2-2B", "Qwen2.5-VL-3B"),
    2560: ("Mipha-3B", "Qwen3-VL-4B"),
    3072: ("BLIP-3 (XGen-MM) 4B", "InternVL2-4B"),
    3584: ("Qwen2-VL-7B", "Molmo-7B-D", "LLaVA-OneVision-7B"),
    4096: ("InternVL2-8B", "LLaVA-1.5-7B"),
}
IN_PAPER = (
    "InternVL2-1B",
    "Aquila-VL-2B",
    "Mipha-1.6B",
    "BLIP-3 (XGen-MM) 4B",
    "Qwen2-VL-7B",
    "Molmo-7B-D",
    "InternVL2-8B",
)


@dataclass(frozen=True)
class LinVTRow:
    """Numbers of parameters of LinVT, at the paper's settings, for language models of one width.

    Attributes:
        hidden_size: width of the language model.
        image_llms: some image-LLMs with this width.
        in_paper: those of them that the paper uses.
        scorer: the trunk that scores tokens, and its head (SVR).
        aggregation: the layers that the queries run through (TTA).
        weights: W_q and W_k of the linear aggregation.
        queries: the learned queries.
        total: all of these.
    """

    hidden_size: int
    image_llms: list[str]
    in_paper: list[str]
    scorer: int
    aggregation: int
    weights: int
    queries: int
    total: int


@dataclass(frozen=True)
class LinVTTable:
    """Parameters of LinVT for each width, compared with the paper.

    Attributes:
        rows: one row for each width.
        published: the number in the paper, which names no width.
        width_of_published: the width at which LinVT would have this number.
        readings: other readings of the paper that come near this number -> their numbers of parameters.
        notes: what this means, in sentences.
    """

    rows: list[LinVTRow]
    published: int
    width_of_published: float
    readings: dict[str, int]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def render(self) -> Group:
        """Tables and notes, for a rich console."""
        table = Table(box=None)
        table.add_column("width")
        for column in ("scorer", "aggregation", "weights", "queries", "total"):
            table.add_column(column, justify="right")
        table.add_column("image-LLMs of this width (* in the paper)")
        for row in self.rows:
            counts = (row.scorer, row.aggregation, row.weights, row.queries, row.total)
            names = ", ".join(f"{name}*" if name in row.in_paper else name for name in row.image_llms)
            table.add_row(str(row.hidden_size), *map(_millions, counts), names)
        readings = Table(box=None)
        readings.add_column("paper, and readings that come near it")
        readings.add_column("millions", justify="right")
        readings.add_row("paper", _millions(self.published))
        for reading, count in self.readings.items():
            readings.add_row(Text(reading), _millions(count))
        head = Text("Millions of parameters of LinVT at the paper's settings, by the width of the language model")
        return Group(head, table, readings, *(Text(f"note: {note}", overflow="fold") for note in self.notes))


def linvt_table() -> LinVTTable:
    """Count LinVT at the paper's settings (4 layers, 112 queries), biases and norms included, for each width."""
    rows = [_row(width) for width in IMAGE_LLMS]
    totals = {row.hidden_size: row.total for row in rows}
    # The count is a polynomial of degree 2 in the width.
    polynomial = np.polyfit(list(totals), list(totals.values()), 2)
    width = float(np.roots(polynomial - [0, 0, PUBLISHED]).max())
    wide = _module(2048)
    # The weights of value and output projections in the trunk, which one reading leaves out.
    values = sum(value.numel() for name, value in wide.svr.named_parameters() if _is_value_path(name))
    weights_only = totals[2048] - values
    without_weights = weights_only - _count(wide.tta.aggregator)
    with_mlp = totals[1536] + LinVTModuleConfig().num_layers * _mlp(1536)
    readings = {
        "width 2048, trunk with query and key projections only": weights_only,
        "the same, without the weights of the linear aggregation": without_weights,
        "width 1536, with an MLP of 4 times the width in each layer of the aggregation": with_mlp,
    }
    copies = 3 * (_count(wide.tta.layers) + _count(wide.tta.aggregator))
    notes = [
        f"the paper gives {_millions(PUBLISHED)} million without a width. LinVT as it describes it has this number at "
        f"width {width:.0f}, which none of its image-LLMs has; the readings above come near, but none matches exactly.",
        f"the scales share the layers of the aggregation: three copies at width 2048 would have "
        f"{_millions(copies)} million.",
    ]
    return LinVTTable(rows, PUBLISHED, width, readings, notes)


def _row(width: int) -> LinVTRow:
    module = _module(width)
    names = list(IMAGE_LLMS[width])
    return LinVTRow(
        hidden_size=width,
        image_llms=names,
        in_paper=[name for name in names if name in IN_PAPER],
        scorer=_count(module.svr),
        aggregation=_count(module.tta.layers),
        weights=_count(module.tta.aggregator),
        queries=module.tta.queries.numel(),
        total=_count(module),
    )


def _module(width: int) -> LinVTModule:
    with torch.device("meta"):
        return LinVTModule(width, LinVTModuleConfig())


def _mlp(width: int) -> int:
    with torch.device("meta"):
        return _count(nn.Linear(width, 4 * width)) + _count(nn.Linear(4 * width, width))


def _is_value_path(name: str) -> bool:
    return ".v_proj." in name or ".o_proj." in name


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _millions(count: int) -> str:
    return f"{count / MILLION:.1f}"


__all__ = ["LinVTRow", "LinVTTable", "linvt_table"]
