"""All judge texts by name."""

from __future__ import annotations

from .judge_text import JudgeText
from .texts_mmbench_video import MMBENCH_VIDEO
from .texts_msvc import MSVC_CORRECTNESS, MSVC_DETAILEDNESS
from .texts_qa import AVQA_CODE, AVQA_TABLE9, QA
from .texts_vcg import VCG_TEXTS
from .texts_video_bench import VIDEO_BENCH

__all__ = ["TEXTS", "get_text"]

TEXTS: dict[str, JudgeText] = {
    text.name: text
    for text in (
        QA,
        AVQA_TABLE9,
        AVQA_CODE,
        *VCG_TEXTS,
        MSVC_CORRECTNESS,
        MSVC_DETAILEDNESS,
        MMBENCH_VIDEO,
        VIDEO_BENCH,
    )
}


def get_text(name: str) -> JudgeText:
    """The judge text of this name.

    Raises:
        ValueError: there is no such text; the most similar names are told.

    Example:
        >>> get_text("qa").fields
        ('question', 'answer', 'pred')
    """
    if name not in TEXTS:
        from ...models.video_llm_option_names import did_you_mean  # loads transformers

        raise ValueError(f"There is no judge text {name!r}: {did_you_mean(name, TEXTS)}")
    return TEXTS[name]
