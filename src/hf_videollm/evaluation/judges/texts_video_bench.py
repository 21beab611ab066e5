"""Video-Bench's matcher: which option of a question does a free answer mean?

It is not told the right answer, so it gives a letter and no score. The instruction is a message of the assistant, and
`sequcene` is a misprint of the original.
"""

from __future__ import annotations

from .judge_text import JudgeText

__all__ = ["VIDEO_BENCH"]

VIDEO_BENCH = JudgeText(
    "video_bench",
    (
        ("system", "As a language expert, please complete the following task."),
        (
            "assistant",
            "You are now an answer selection expert, and I will provide you with a question with several options, as "
            "well as a target sentence. Please return the alphabet of the option with the highest probability of "
            "matching this target sentence. Given question with options and the target sequence:\n"
            "{'target sequcene': {pred!r}, 'question': {question!r}}",
        ),
        (
            "user",
            'Please output your responses in the form of a dictionary {"maximum probability":"xxx"}  where xxx is A or '
            "B or C or ...",
        ),
    ),
    ("question", "pred"),
    "letter",
)
