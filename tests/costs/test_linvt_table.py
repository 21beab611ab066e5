"""The table of LinVT's parameters, against docs/designs/linvt.md#parameters and a count by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_videollm.costs.info import describe_checkpoint
from hf_videollm.costs.linvt import IMAGE_LLMS, IN_PAPER, linvt_table
from hf_videollm.models.configuration_linvt import LinVTConfig

# docs/designs/linvt.md#parameters, in millions.
SPECIFIED = {896: 66.0, 1536: 193.8, 2048: 344.4, 2560: 538.0, 3072: 774.6, 3584: 1054, 4096: 1377}


def test_the_numbers_of_the_documentation() -> None:
    table = linvt_table()
    assert {row.hidden_size for row in table.rows} == set(SPECIFIED)
    for row in table.rows:
        decimals = 0 if SPECIFIED[row.hidden_size] > 1000 else 1
        assert round(row.total / 1e6, decimals) == SPECIFIED[row.hidden_size]
        assert row.scorer + row.aggregation + row.weights + row.queries == row.total


@pytest.mark.parametrize("row", linvt_table().rows, ids=lambda row: str(row.hidden_size))
def test_a_count_by_hand(row) -> None:
    """4 layers: an attention is 4 linear layers with biases, a norm two vectors."""
    width = row.hidden_size
    attention, norm = 4 * (width * width + width), 2 * width
    assert row.scorer == 4 * (2 * attention + 2 * norm) + norm + width + 1
    assert row.aggregation == 4 * (3 * attention + 3 * norm)
    assert row.weights == 2 * (width * width + width)
    assert row.queries == 112 * width


def test_the_paper_is_explained() -> None:
    table = linvt_table()
    assert table.published == 267_000_000
    assert all(row.total != table.published for row in table.rows)
    # 1804.5 by the leading term alone, 82 times the width squared.
    assert round(table.width_of_published) == 1803
    assert [round(count / 1e6, 1) for count in table.readings.values()] == [277.3, 268.9, 269.4]
    named = [name for row in table.rows for name in row.in_paper]
    assert sorted(named) == sorted(IN_PAPER)
    assert set(IN_PAPER) <= {name for names in IMAGE_LLMS.values() for name in names}


def test_a_checkpoint_of_linvt_is_described(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """Of the configuration alone: XGen-MM's 4.34 billion parameters and 774.6 million of LinVT."""
    LinVTConfig(backbone_config={"model_type": "xgen_mm"}, num_frames=32).save_pretrained(tmp_path)
    facts = describe_checkpoint(tmp_path)
    assert (facts.design, facts.num_frames, facts.tokens_per_video) == ("LinVTForCausalLM", 32, 112)
    assert facts.tokens_per_image is None
    assert facts.parameters == {
        "backbone": 4_343_699_327 - 32015 * 3073,
        "linvt": 774_577_153,
        "lm_head": 32015 * 3073,
        "total": 4_343_699_327 + 774_577_153,
    }
    code, out, _ = cli("info", str(tmp_path))
    assert (code, "tokens per video" in out, "tokens per image" in out) == (0, True, False)


def test_the_command(cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = cli("info", "--design", "linvt", "--json")
    report = json.loads(out)
    assert code == 0
    assert [row["hidden_size"] for row in report["rows"]] == sorted(SPECIFIED)
    assert report == linvt_table().to_dict()
    code, out, _ = cli("info", "--design", "linvt")
    assert code == 0
    assert all(f"{number:.1f}" in out for number in (66.0, 774.6, 267.0, 277.3))
    assert "1803" in out
    assert "629.6 million" in out
    code, _, error = cli("info", "--design", "pllava")
    assert (code, "only the size of linvt depends" in error) == (2, True)
    code, _, error = cli("info", "somewhere", "--design", "linvt")
    assert (code, "not both" in error) == (2, True)
