"""What the papers print for the four sets of open questions, as printed: accuracy in percent, score from 0 to 5."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ACTIVITYNET_QA", "MSRVTT_QA", "MSVD_QA", "TGIF_QA", "accuracy_and_score"]

Published = Mapping[str, Mapping[str, Mapping[str, float]]]


def accuracy_and_score(accuracy: float, score: float) -> dict[str, float]:
    """The two numbers of a judged set of questions."""
    return {"accuracy": accuracy, "score": score}


_qa = accuracy_and_score

MSVD_QA: Published = {
    "pllava": {  # Table 2
        "PLLaVA 7B": _qa(76.6, 4.1),
        "PLLaVA 13B": _qa(75.7, 4.1),
        "PLLaVA 34B": _qa(79.9, 4.2),
    },
    "videollama2": {  # Table 6
        "VideoLLaMA 2 (7B), 8 frames": _qa(71.7, 3.9),
        "VideoLLaMA 2 (7B), 16 frames": _qa(70.9, 3.8),
        "VideoLLaMA 2 (8x7B), 8 frames": _qa(70.5, 3.8),
    },
    "linvt": {  # Table 7; LinVT-InternVL2 1B: Table 11
        "LinVT-InternVL2 1B": _qa(73.3, 3.9),
        "LinVT-Mipha 1.6B": _qa(71.2, 3.8),
        "LinVT-Aquila 2B": _qa(74.6, 4.1),
        "LinVT-BLIP-3 4B": _qa(79.1, 4.4),
        "LinVT-Molmo 7B": _qa(78.1, 4.3),
        "LinVT-Qwen2-VL 7B": _qa(80.2, 4.4),
        "LinVT-InternVL2 8B": _qa(79.3, 4.4),
    },
    "ftfv": {  # Table 4; the rows that end with a number of tokens a frame: Table 5
        "FTFV-LLM image": _qa(65.0, 3.6),
        "FTFV-LLM S4-V": _qa(69.2, 3.7),
        "FTFV-LLM S3-IV": _qa(70.3, 3.8),
        "FTFV-LLM S2-S3-IV": _qa(68.9, 3.7),
        "FTFV-LLM S4-V 4": _qa(67.31, 3.69),
        "FTFV-LLM S4-V 16": _qa(68.29, 3.74),
        "FTFV-LLM S4-V 32": _qa(68.32, 3.73),
        "FTFV-LLM S4-V 64": _qa(68.85, 3.74),
        "FTFV-LLM S4-V 128": _qa(69.18, 3.73),
        "FTFV-LLM S4-V 256": _qa(68.62, 3.71),
    },
    "iva": {  # Table 2
        "Baseline (w/o IVA)": _qa(54.5, 3.2),
        "IVA (LQ=8, NI=8)": _qa(53.2, 3.2),
        "IVA (LQ=16, NI=8)": _qa(55.7, 3.2),
        "IVA (LQ=32, NI=8)": _qa(53.0, 3.2),
        "IVA (LQ=16, NI=4)": _qa(55.0, 3.2),
        "IVA (LQ=16, NI=16)": _qa(53.3, 3.1),
        "IVA (LQ=16, NI=8)-272K": _qa(58.6, 3.2),
    },
}

MSRVTT_QA: Published = {
    "pllava": {  # Table 2
        "PLLaVA 7B": _qa(62.0, 3.5),
        "PLLaVA 13B": _qa(63.2, 3.6),
        "PLLaVA 34B": _qa(68.7, 3.8),
    },
    "linvt": {  # Table 7; LinVT-InternVL2 1B: Table 11
        "LinVT-InternVL2 1B": _qa(57.1, 3.0),
        "LinVT-Mipha 1.6B": _qa(55.3, 3.0),
        "LinVT-Aquila 2B": _qa(58.4, 3.2),
        "LinVT-BLIP-3 4B": _qa(61.5, 3.9),
        "LinVT-Molmo 7B": _qa(60.3, 3.7),
        "LinVT-Qwen2-VL 7B": _qa(66.2, 4.0),
        "LinVT-InternVL2 8B": _qa(63.1, 4.0),
    },
    "ftfv": {  # Table 4; the rows that end with a number of tokens a frame: Table 5
        "FTFV-LLM image": _qa(42.9, 2.6),
        "FTFV-LLM S4-V": _qa(55.1, 3.1),
        "FTFV-LLM S3-IV": _qa(53.4, 3.1),
        "FTFV-LLM S2-S3-IV": _qa(52.0, 3.1),
        "FTFV-LLM S4-V 4": _qa(49.61, 3.00),
        "FTFV-LLM S4-V 16": _qa(53.45, 3.16),
        "FTFV-LLM S4-V 32": _qa(54.07, 3.17),
        "FTFV-LLM S4-V 64": _qa(54.80, 3.19),
        "FTFV-LLM S4-V 128": _qa(55.06, 3.14),
        "FTFV-LLM S4-V 256": _qa(53.28, 3.13),
    },
    "iva": {  # Table 2
        "Baseline (w/o IVA)": _qa(49.6, 2.9),
        "IVA (LQ=8, NI=8)": _qa(47.6, 2.9),
        "IVA (LQ=16, NI=8)": _qa(49.1, 2.9),
        "IVA (LQ=32, NI=8)": _qa(47.2, 2.9),
        "IVA (LQ=16, NI=4)": _qa(47.8, 2.9),
        "IVA (LQ=16, NI=16)": _qa(47.1, 2.8),
        "IVA (LQ=16, NI=8)-272K": _qa(50.2, 2.9),
    },
}

TGIF_QA: Published = {
    "pllava": {  # Table 2
        "PLLaVA 7B": _qa(77.5, 4.1),
        "PLLaVA 13B": _qa(77.8, 4.2),
        "PLLaVA 34B": _qa(80.6, 4.3),
    },
    "linvt": {  # Table 7; LinVT-InternVL2 1B: Table 11
        "LinVT-InternVL2 1B": _qa(72.2, 4.0),
        "LinVT-Mipha 1.6B": _qa(71.1, 3.9),
        "LinVT-Aquila 2B": _qa(73.6, 4.0),
        "LinVT-BLIP-3 4B": _qa(78.7, 4.3),
        "LinVT-Molmo 7B": _qa(79.3, 4.2),
        "LinVT-Qwen2-VL 7B": _qa(81.3, 4.3),
        "LinVT-InternVL2 8B": _qa(79.4, 4.3),
    },
}

ACTIVITYNET_QA: Published = {
    "pllava": {  # Table 2
        "PLLaVA 7B": _qa(56.3, 3.5),
        "PLLaVA 13B": _qa(56.3, 3.6),
        "PLLaVA 34B": _qa(60.9, 3.7),
    },
    "videollama2": {  # Table 6
        "VideoLLaMA 2 (7B), 8 frames": _qa(49.9, 3.3),
        "VideoLLaMA 2 (7B), 16 frames": _qa(50.2, 3.3),
        "VideoLLaMA 2 (8x7B), 8 frames": _qa(50.3, 3.4),
    },
    "linvt": {  # Table 7; LinVT-InternVL2 1B: Table 11
        "LinVT-InternVL2 1B": _qa(49.6, 3.1),
        "LinVT-Mipha 1.6B": _qa(47.5, 3.1),
        "LinVT-Aquila 2B": _qa(51.1, 3.3),
        "LinVT-BLIP-3 4B": _qa(58.9, 3.6),
        "LinVT-Molmo 7B": _qa(59.6, 3.7),
        "LinVT-Qwen2-VL 7B": _qa(60.1, 3.6),
        "LinVT-InternVL2 8B": _qa(59.7, 3.7),
    },
    "ftfv": {  # Table 4; the rows that end with a number of tokens a frame: Table 5
        "FTFV-LLM image": _qa(46.9, 3.2),
        "FTFV-LLM S4-V": _qa(49.7, 3.3),
        "FTFV-LLM S3-IV": _qa(52.2, 3.4),
        "FTFV-LLM S2-S3-IV": _qa(52.0, 3.4),
        "FTFV-LLM S4-V 4": _qa(44.85, 3.16),
        "FTFV-LLM S4-V 16": _qa(48.44, 3.31),
        "FTFV-LLM S4-V 32": _qa(49.43, 3.32),
        "FTFV-LLM S4-V 64": _qa(49.46, 3.32),
        "FTFV-LLM S4-V 128": _qa(49.67, 3.31),
        "FTFV-LLM S4-V 256": _qa(48.17, 3.30),
    },
    "iva": {  # Table 1
        "Baseline (w/o IVA)": _qa(40.8, 3.0),
        "IVA (LQ=8, NI=8)": _qa(41.6, 3.0),
        "IVA (LQ=16, NI=8)": _qa(42.1, 3.0),
        "IVA (LQ=32, NI=8)": _qa(41.9, 3.0),
        "IVA (LQ=16, NI=4)": _qa(42.2, 3.0),
        "IVA (LQ=16, NI=16)": _qa(42.3, 3.0),
        "IVA (LQ=16, NI=8)-272K": _qa(46.8, 3.1),
    },
}
