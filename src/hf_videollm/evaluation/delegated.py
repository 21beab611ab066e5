"""Benchmarks of the five papers that other tools run well, and what they are called there.

lmms-eval runs a model of this package through its plugin (docs/how_to/lmms_eval.md), VLMEvalKit through
`examples/vlmevalkit_wrapper.py`. Names of tasks are those of lmms-eval 0.7 and of VLMEvalKit in August 2026.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DELEGATED", "Delegated", "who_has"]


@dataclass(frozen=True)
class Delegated:
    """A benchmark that another tool runs.

    Attributes:
        title: the benchmark.
        papers: which of the five papers report it.
        lmms_eval: its tasks there, the first of which is the papers' form or the nearest to it.
        vlmevalkit: its data sets there.
        metric: what the tool reports.
        note: what a reader who compares with a paper must know.
    """

    title: str
    papers: tuple[str, ...]
    lmms_eval: tuple[str, ...] = ()
    vlmevalkit: tuple[str, ...] = ()
    metric: str = "accuracy"
    note: str = ""

    @property
    def advice(self) -> str:
        """What to run, in one sentence."""
        if self.lmms_eval:
            return f"lmms-eval has it: --tasks {self.lmms_eval[0]} (docs/how_to/lmms_eval.md)."
        return f"VLMEvalKit has it: --data {self.vlmevalkit[0]} (examples/vlmevalkit_wrapper.py)."


# Name on our command line, if we had the task -> who has it.
DELEGATED: dict[str, Delegated] = {
    "mmbench_video": Delegated(
        "MMBench-Video",
        ("LinVT",),
        vlmevalkit=("MMBench_Video_8frame_nopack", "MMBench_Video_64frame_nopack"),
        metric="mean of 0 to 3 by a judge",
        note="LinVT does not name its judge",
    ),
    "tempcompass": Delegated(
        "TempCompass",
        ("LinVT",),
        ("tempcompass",),
        ("TempCompass_8frame", "TempCompass_64frame"),
        note="LinVT prints one number and does not say which average",
    ),
    "mmmu": Delegated("MMMU", ("LinVT",), ("mmmu_val",), ("MMMU_DEV_VAL",)),
    "docvqa": Delegated("DocVQA", ("LinVT",), ("docvqa_test", "docvqa_val"), ("DocVQA_TEST",), metric="ANLS"),
    "hallusion_bench": Delegated(
        "HallusionBench",
        ("LinVT",),
        ("hallusion_bench_image",),
        ("HallusionBench",),
        metric="aAcc, qAcc, fAcc",
        note="LinVT's average is taken for the mean of the three",
    ),
    "ai2d": Delegated("AI2D", ("LinVT",), ("ai2d",), ("AI2D_TEST",), metric="exact match"),
    "mmvet": Delegated("MM-Vet", ("LinVT",), ("mmvet",), ("MMVet",), metric="0 to 100 by a judge"),
    "textvqa": Delegated("TextVQA", ("LinVT",), ("textvqa_val",), ("TextVQA_VAL",), metric="VQA accuracy"),
    "pope": Delegated("POPE", ("LinVT",), ("pope", "pope_full"), ("POPE",), metric="accuracy, F1"),
    "seed_bench_image": Delegated("SEED-Bench, images", ("LinVT", "FTFV"), ("seedbench",), ("SEEDBench_IMG",)),
    "mme": Delegated("MME", ("LinVT",), ("mme",), ("MME",), metric="perception and cognition score"),
    "mmbench": Delegated(
        "MMBench, English and Chinese",
        ("FTFV",),
        ("mmbench_en_dev", "mmbench_cn_dev"),
        ("MMBench_DEV_EN", "MMBench_DEV_CN"),
    ),
}


def who_has(name: str) -> str | None:
    """What to run for a benchmark that this package leaves to another tool; None for other names.

    Example:
        >>> who_has("mme")
        'lmms-eval has it: --tasks mme (docs/how_to/lmms_eval.md).'
    """
    return DELEGATED[name].advice if name in DELEGATED else None
