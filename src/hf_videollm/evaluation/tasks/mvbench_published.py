"""What the papers print for MVBench, as printed: accuracy in percent, overall and by the abbreviations of sub-tasks."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MVBENCH"]

_COLUMNS = "AS AP AA FA UA OE OI OS MD AL ST AC MC MA SC FP CO EN ER CI accuracy"


def _row(text: str) -> dict[str, float]:
    """A row of PLLaVA's table."""
    return {name: float(number) for name, number in zip(_COLUMNS.split(), text.split(), strict=True)}


def _average(value: float) -> dict[str, float]:
    return {"accuracy": value}


MVBENCH: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "pllava": {  # Table 3
        "PLLaVA 7B": _row(
            "58.0 49.0 55.5 41.0 61.0 56.0 61.0 36.0 23.5 26.0 82.0 39.5 42.0 52.0 45.0 42.0 53.5 30.5 48.0 31.0 46.6"
        ),
        "PLLaVA 13B": _row(
            "66.0 53.0 65.5 45.0 65.0 58.0 64.5 35.5 23.5 30.0 85.0 39.5 45.5 57.0 47.5 49.5 49.0 33.0 53.0 37.0 50.1"
        ),
        "PLLaVA 34B": _row(
            "67.5 53.0 82.0 47.0 79.0 68.5 67.5 36.5 37.5 49.5 91.0 40.5 43.0 70.0 51.5 50.0 66.5 39.5 63.5 59.0 58.1"
        ),
    },
    "videollama2": {  # Table 5
        "VideoLLaMA 2 (7B), 8 frames": _average(53.4),
        "VideoLLaMA 2 (7B), 16 frames": _average(54.6),
        "VideoLLaMA 2 (8x7B), 8 frames": _average(53.9),
    },
    "linvt": {  # Table 8; LinVT-InternVL2 1B: Table 11. Table 6 prints 62.2 for LinVT-Aquila, Table 2 62.5 for Mipha
        "LinVT-InternVL2 1B": _average(60.2),
        "LinVT-Mipha 1.6B": _average(60.5),
        "LinVT-Aquila 2B": _average(59.2),
        "LinVT-BLIP-3 4B": _average(63.7),
        "LinVT-Molmo 7B": _average(63.1),
        "LinVT-Qwen2-VL 7B": _average(69.3),
        "LinVT-InternVL2 8B": _average(67.7),
    },
    "ftfv": {  # Table 4; the rows that end with a number of tokens a frame: Table 5
        "FTFV-LLM image": _average(42.4),
        "FTFV-LLM S4-V": _average(43.5),
        "FTFV-LLM S3-IV": _average(44.8),
        "FTFV-LLM S2-S3-IV": _average(44.2),
        "FTFV-LLM S4-V 4": _average(44.57),
        "FTFV-LLM S4-V 16": _average(44.70),
        "FTFV-LLM S4-V 32": _average(44.38),
        "FTFV-LLM S4-V 64": _average(44.07),
        "FTFV-LLM S4-V 128": _average(43.52),
        "FTFV-LLM S4-V 256": _average(44.47),
    },
}
