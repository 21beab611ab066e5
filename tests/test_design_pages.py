"""Numbers in the tables of docs/designs/ are those that the code counts at real sizes."""

import re

import pytest
from pages import REPOSITORY

from hf_videollm.costs.flops import describe_flops
from hf_videollm.costs.linvt import linvt_table
from hf_videollm.models.configuration_iva import IvaConfig
from hf_videollm.models.configuration_pllava import PllavaConfig
from hf_videollm.models.configuration_videollama2 import VideoLlama2Config

CLIP = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
SIGLIP = {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14}


def table_under(page: str, heading: str) -> list[list[str]]:
    """Cells of the first table under a heading of a page of designs, without backticks and its first two lines."""
    text = (REPOSITORY / "docs" / "designs" / f"{page}.md").read_text(encoding="utf-8")
    part = re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
    rows = re.search(r"(?:^\|.*\n)+", part, re.MULTILINE)
    assert rows
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows[0].splitlines()]


def numbers(cell: str) -> list[float]:
    """The numbers in a cell: `1,521` is one."""
    return [float(number.replace(",", "")) for number in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", cell)]


@pytest.mark.parametrize(
    "row", table_under("videollama2", "Types of connector")[2:], ids=lambda row: re.sub(r"\W+", "-", row[0])
)
def test_tokens_of_the_connectors_of_videollama2(row: list[str]) -> None:
    for name in row[0].replace("`", "").split(", "):
        for tower, cell in ((CLIP, row[5]), (SIGLIP, row[6])):
            config = VideoLlama2Config(vision_config=tower, connector_type=name, vision_feature_select_strategy="full")
            counted = [config.num_video_tokens(frames) for frames in (8, 16)]
            assert (numbers(cell) * 2)[:2] == counted


def test_parameters_of_linvt() -> None:
    widths, millions = (row[1:] for row in table_under("linvt", "Parameters")[::2])
    counted = {row.hidden_size: row.total / 1e6 for row in linvt_table().rows}
    assert {int(width) for width in widths} == counted.keys()
    for width, cell in zip(widths, millions, strict=True):
        decimals = len(cell.partition(".")[2])
        assert round(counted[int(width)], decimals) == float(cell)


def test_operations_of_ftfv() -> None:
    kept, _, published, printed = (row[1:] for row in table_under("ftfv", "Operations"))
    counted = {row.tokens_per_frame: row for row in describe_flops(design="ftfv").by_tokens_per_frame}
    assert [int(cell) for cell in kept] == list(counted)
    for number, theirs, ours in zip(kept, published, printed, strict=True):
        assert counted[int(number)].published == float(theirs)
        assert round(counted[int(number)].total.weights / 1e12, 2) == float(ours)


@pytest.mark.parametrize(
    ("page", "heading", "symbols"),
    [
        ("pllava", "PLLaVA", {"T": [PllavaConfig().num_frames], "T' x h' x w'": list(PllavaConfig().pooling_shape)}),
        (
            "iva",
            "IVA",
            {
                "M": [IvaConfig().num_query_tokens],
                "Da": [IvaConfig().adapter_hidden_size],
                "NI": [IvaConfig().num_insertions],
                "tau": [IvaConfig().selector_temperature],
            },
        ),
    ],
)
def test_values_of_symbols_are_the_defaults(page: str, heading: str, symbols: dict[str, list[float]]) -> None:
    values = {row[0]: numbers(row[2]) for row in table_under(page, heading)[2:]}
    assert {symbol: values[symbol][: len(found)] for symbol, found in symbols.items()} == symbols


def test_a_wrong_number_would_be_seen() -> None:
    """A control: the cells are read, and differ from each other."""
    rows = table_under("videollama2", "Types of connector")[2:]
    assert [numbers(row[5]) for row in rows][:2] == [[845, 1521], [576, 1152]]
    assert numbers("1,690, 3,042 and 2.5") == [1690, 3042, 2.5]
