"""Run the test mixins of the installed transformers against our designs: `python tests/conformance/run.py`.

Further arguments go to pytest, e.g. `-k Processor`. Exit code 0: nothing failed, and every skip is explained by a
design's table, or by `ACCEPTED_SKIPS` for the tests that skip themselves.
"""

import os
import re
import sys
from collections import Counter
from pathlib import Path

from fetch import fetch

FOLDER = Path(__file__).parent
# Reasons the mixins give themselves, and what they mean here. Any other reason is an error: a test that quietly stops
# to run (a missing capability flag, a renamed attribute) is to be noticed.
ACCEPTED_SKIPS = {
    r"test requires (multiple )?accelerators?": "needs a GPU",
    r"test requires Flash Attention": "needs Flash Attention and a GPU",
    r"test requires MPS": "needs an Apple GPU",
    r"test requires (the kernels library|deepspeed)": "needs a library that we neither use nor support",
    r"test is slow": "for GPUs as well, besides being slow: Flash Attention, SDPA's flash kernel, compiled training",
    r"test requires Torchcodec": "for torchcodec; test_apply_chat_template_with_videos does the same without",
    r"test requires librosa": "for librosa; test_apply_chat_template_with_audio does the same without",
    r"not an encoder-decoder": "for encoder-decoder models",
    r"no sparse experts|output_router_logits|grouped_mm": "for mixtures of experts",
    r"_keep_in_fp32_modules": "for models that keep modules in float32 whatever the dtype",
    r"\w+Model does not support SDPA$": "for models of one part; the same test for composite models runs",
    r"Model does not have position embeddings": "for learned positions that can be resized",
    r"sliding window mask|axial RoPE|partial rope": "the tiny language model and tower have no such thing",
    r"Only PrefixChange conversions": "our weights have one layout, nothing is converted on loading",
    r"does not have dict size or list image_mean": "no video processor of transformers has the old kind of sizes",
    r"No validation found for `preprocess`": "for a way of checking arguments that transformers has left",
}


class Report:
    """Pytest plugin that counts outcomes and collects the reasons of skips."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.skips: dict[str, list[str]] = {}

    def pytest_runtest_logreport(self, report: object) -> None:
        kind = "subtests " if hasattr(report, "context") else ""
        if report.skipped:
            reason = report.longrepr[2].removeprefix("Skipped: ")
            self.skips.setdefault(reason, []).append(report.nodeid.rpartition("::")[2])
        if report.when == "call" or report.failed or report.skipped:
            self.outcomes[kind + report.outcome] += 1

    def unexplained(self, tables: set[str]) -> list[str]:
        """Reasons that no table knows."""
        return [reason for reason in self.skips if reason not in tables and not _accepted(reason)]

    def print(self, tables: set[str], replaced: dict[str, str], lenient: tuple[str, ...]) -> None:
        """The skips and the totals."""
        print("\nSkipped, by reason:")
        grouped: dict[str, list[str]] = {}
        for reason, names in self.skips.items():
            words = reason if reason in tables else _accepted(reason) or f"UNEXPLAINED: {reason}"
            grouped.setdefault(words, []).extend(names)
        for reason, names in sorted(grouped.items()):
            print(f"  {len(names):3} {reason}: {_shorten(sorted(set(names)))}")
        print("\nReplaced by a test of our own:")
        for name, reason in replaced.items():
            print(f"  {name}: {reason}")
        print(f"\nRun with strict=False, as they load a checkpoint that lacks weights: {', '.join(lenient)}")
        kinds = ("passed", "failed", "skipped", "subtests passed", "subtests failed")
        totals = [f"{self.outcomes[key]} {key}" for key in kinds]
        print(f"\nConformance: {', '.join(totals)}")


def _accepted(reason: str) -> str | None:
    return next((words for pattern, words in ACCEPTED_SKIPS.items() if re.search(pattern, reason)), None)


def _shorten(names: list[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def main(arguments: list[str]) -> int:
    """Fetch, run, report."""
    os.environ.update(HF_VIDEOLLM_CONFORMANCE="1", HF_HUB_OFFLINE="1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:0] = [str(fetch()), str(FOLDER)]
    import pytest
    from conformance_base import LENIENT_TESTS, REPLACED, SkipTable

    report = Report()
    # The mixins use markers that are theirs; `-m` names "slow" so that they give their own reasons for skipping.
    options = ["-q", "-o", "addopts=", "-m", "slow or not slow", "-p", "no:cacheprovider", "--disable-warnings"]
    exit_code = pytest.main([*options, "--tb=short", str(FOLDER), *arguments], plugins=[report])
    report.print(SkipTable.reasons, REPLACED, LENIENT_TESTS)
    if unexplained := report.unexplained(SkipTable.reasons):
        print("Explain these skips in a table, or make their tests run:", *unexplained, sep="\n  ")
    return int(exit_code) or int(bool(unexplained))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
