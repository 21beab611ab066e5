"""The report of a count of operations, as JSON and as tables."""

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from .counter import Flops
from .memory import MemoryPrediction

TERA, GIGA = 10**12, 10**9


@dataclass(frozen=True)
class TokensRow:
    """Costs for one number of kept tokens per frame (FTFV).

    Attributes:
        tokens_per_frame: kept tokens per frame.
        media_tokens: tokens of the whole video.
        total: operations of one forward pass.
        kv_cache_bytes: bfloat16 key-value cache of prompt and video.
        published: TFLOPs in the paper; `None` if the paper has no number.
    """

    tokens_per_frame: int
    media_tokens: int
    total: Flops
    kv_cache_bytes: int
    published: float | None = None


@dataclass(frozen=True)
class FlopsReport:
    """Costs of one video with one prompt.

    Attributes:
        source: description of the preset, or the checkpoint.
        design: `model_type` of the model.
        num_frames: frames of the video.
        text_tokens: tokens of the prompt besides the media.
        media_tokens: tokens of the video and, for designs with audio, of 30 seconds of sound.
        tokens_per_frame: kept tokens per frame, for designs that drop some.
        lora_rank: rank of an unmerged LoRA on all linear layers of the language model; 0 for none.
        parts: part -> operations of one forward pass over media and prompt. The head is counted at every position.
        total: operations of all parts.
        decoded_token: operations of the first token after the prompt.
        kv_cache_bytes: bfloat16 key-value cache of media and prompt.
        kv_cache_bytes_per_token: growth of the cache with every token.
        memory: predicted memory in bfloat16, without LoRA; `None` if it was not predicted.
        by_tokens_per_frame: the same forward pass with other numbers of kept tokens.
        notes: what the counts mean, in sentences.
    """

    source: str
    design: str
    num_frames: int
    text_tokens: int
    media_tokens: int
    tokens_per_frame: int | None
    lora_rank: int
    parts: dict[str, Flops]
    total: Flops
    decoded_token: Flops
    kv_cache_bytes: int
    kv_cache_bytes_per_token: int
    memory: MemoryPrediction | None = None
    by_tokens_per_frame: list[TokensRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def render(self) -> Group:
        """Tables and notes, for a rich console."""
        kept = "" if self.tokens_per_frame is None else f", {self.tokens_per_frame} tokens kept per frame"
        head = Text(
            f"{self.source}: {self.num_frames} frames{kept}; {self.media_tokens:,} media + {self.text_tokens:,} text "
            "tokens"
        )
        parts = _table("TFLOPs", "weight layers", "all products")
        for name, flops in {**self.parts, "total": self.total}.items():
            parts.add_row(name, f"{flops.weights / TERA:.3f}", f"{flops.total / TERA:.3f}")
        further = Table(show_header=False, box=None)
        token = self.decoded_token
        further.add_row(
            "one decoded token",
            f"{token.weights / GIGA:.2f} GFLOPs in weight layers, {token.total / GIGA:.2f} in all products",
        )
        further.add_row(
            "key-value cache (bfloat16)",
            f"{self.kv_cache_bytes:,} bytes, {self.kv_cache_bytes_per_token:,} for each additional token",
        )
        if (memory := self.memory) is not None:
            further.add_row(
                f"memory, predicted ({memory.dtype})",
                f"{memory.total:,} bytes: weights {memory.weights:,}, frames {memory.inputs:,}, activations and cache "
                f"{memory.activations:,}; on a CPU {memory.cpu_first_answer:,} up to the first answer",
            )
        tables: list[Table | Text] = [head, parts, further]
        if self.by_tokens_per_frame:
            tables.append(self._render_sweep())
        return Group(*tables, *(Text(f"note: {note}", overflow="fold") for note in self.notes))

    def _render_sweep(self) -> Table:
        is_published = any(row.published is not None for row in self.by_tokens_per_frame)
        columns = ["weight layers", "all products", "cache bytes", *(["paper"] if is_published else [])]
        table = _table("kept per frame (TFLOPs)", *columns)
        for row in self.by_tokens_per_frame:
            cells = [f"{row.total.weights / TERA:.2f}", f"{row.total.total / TERA:.2f}", f"{row.kv_cache_bytes:,}"]
            paper = [] if row.published is None else [f"{row.published:.2f}"]
            table.add_row(str(row.tokens_per_frame), *cells, *paper)
        return table


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


__all__ = ["FlopsReport", "TokensRow"]
