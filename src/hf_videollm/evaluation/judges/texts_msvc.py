"""The two judges of MSVC, VideoLLaMA2's captioning benchmark: VCG's correctness and detail, with several references."""

from __future__ import annotations

from .judge_text import JudgeText
from .texts_qa import FRAME_OPENING
from .texts_vcg import ASPECTS, VCG_VARIANTS, score_request

__all__ = ["MSVC_CORRECTNESS", "MSVC_DETAILEDNESS"]

# The references stand there as a Python list.
_FIELDS = "\nQuestion: {question}\nCorrect Answers: {refs!r}\nPredicted Answer: {pred}\n\n"


def _make(name: str, aspect_name: str) -> JudgeText:
    aspect = ASPECTS[aspect_name]
    # Only the sentence about the task speaks of several answers; the bullets go on to speak of one.
    system = aspect.system.replace("with the correct answer and determine", "with these correct answers and determine")
    user = FRAME_OPENING + _FIELDS + score_request(aspect, VCG_VARIANTS["vcg_original"])
    return JudgeText(name, (("system", system), ("user", user)), ("question", "refs", "pred"), "first_value")


MSVC_CORRECTNESS = _make("msvc_correctness", "correctness")
MSVC_DETAILEDNESS = _make("msvc_detailedness", "detail")
