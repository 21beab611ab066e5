"""docs/benchmarks.md is what the tasks say, without an empty cell, and no benchmark of the papers is left out."""

from pathlib import Path
from types import ModuleType

import pytest
from repository_tools import load_tool

from hf_videollm.evaluation.delegated import DELEGATED, who_has
from hf_videollm.evaluation.tasks import find_task, task_names

REPOSITORY = Path(__file__).resolve().parents[1]
# Every benchmark of the tables of the five papers -> its task, here or in another tool.
OF_THE_PAPERS = {
    "MSVD-QA": "msvd_qa",
    "MSRVTT-QA": "msrvtt_qa",
    "TGIF-QA": "tgif_qa",
    "ActivityNet-QA": "activitynet_qa",
    "Video-ChatGPT": "vcg",
    "LifeQA": "lifeqa",
    "Social-IQ 2.0": "social_iq2",
    "WildQA": "wildqa",
    "SEED-Bench, videos": "seed_bench_video",
    "MVBench": "mvbench",
    "Inter4K": "inter4k",
    "Video-MME": "videomme",
    "Video-MME with subtitles": "videomme_subtitles",
    "EgoSchema": "egoschema",
    "NExT-QA": "nextqa",
    "Perception-Test": "perception_test",
    "MLVU": "mlvu",
    "LongVideoBench": "longvideobench",
    "VideoVista": "videovista",
    "Video-Bench": "video_bench",
    "MSVC": "msvc",
    "Clotho-AQA": "clotho_aqa",
    "TUT2017": "tut2017",
    "VocalSound": "vocalsound",
    "MUSIC-AVQA": "music_avqa",
    "AVSD": "avsd",
    "AVSSD": "avssd",
    "Tiny LVLM-eHub": "tiny_lvlm_ehub",
    "MMBench-Video": "mmbench_video",
    "TempCompass": "tempcompass",
    "MMMU": "mmmu",
    "DocVQA": "docvqa",
    "HallusionBench": "hallusion_bench",
    "AI2D": "ai2d",
    "MM-Vet": "mmvet",
    "TextVQA": "textvqa",
    "POPE": "pope",
    "SEED-Bench, images": "seed_bench_image",
    "MME": "mme",
    "MMBench": "mmbench",
}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("benchmark_table")


def empty_cells(text: str) -> list[str]:
    """Rows of tables that have a cell without text."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if any(not cell.strip() for cell in row.strip("|").split("|"))]


def test_the_page_is_up_to_date(tool: ModuleType) -> None:
    assert tool.DOCUMENT.read_text() == tool.page(), "run python tools/benchmark_table.py"


def test_no_cell_is_empty(tool: ModuleType) -> None:
    assert empty_cells(tool.page()) == []
    assert empty_cells("| a | b |\n| c |  |") == ["| c |  |"]


@pytest.mark.parametrize("title", OF_THE_PAPERS)
def test_every_benchmark_of_the_papers_has_a_task_here_or_elsewhere(title: str) -> None:
    name = OF_THE_PAPERS[title]
    assert (name in task_names()) is (name not in DELEGATED)


def test_every_task_elsewhere_is_a_benchmark_of_a_paper() -> None:
    assert set(DELEGATED) <= set(OF_THE_PAPERS.values())
    assert all(row.papers and (row.lmms_eval or row.vlmevalkit) for row in DELEGATED.values())


@pytest.mark.parametrize("name", DELEGATED)
def test_asking_for_a_delegated_benchmark_tells_who_has_it(name: str) -> None:
    advice = who_has(name)
    assert advice is not None
    with pytest.raises(ValueError, match=f"leaves {name} to another tool") as caught:
        find_task(name)
    assert advice in str(caught.value)
    assert who_has("msvd_qa") is None
