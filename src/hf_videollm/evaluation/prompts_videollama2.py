"""Prompts and generation settings of VideoLLaMA2's official evaluation.

The prompts are the texts after the placeholder. Every text comes from DAMO-NLP-SG/VideoLLaMA2 (`main` @ c0bb03a, audio
sets: `audio_visual` @ 8cedfbd). Every letter is kept, also blanks at the end, because scores depend on them. The rest
of a prompt comes from the chat template of the checkpoint (`models/chat_template_videollama2.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..models.video_llm_option_names import did_you_mean
from .prompting import lettered

__all__ = ["BARE_QUESTIONS", "GENERATION", "INSTRUCTIONS", "instruction"]

# The original also passes `top_p=0.9` and `temperature=0.0`, which greedy decoding ignores.
GENERATION: dict[str, Any] = {"do_sample": False, "max_new_tokens": 2048}

_LETTER = "Answer with the option's letter from the given choices directly and only give the best option."
_SELECT = "Select the best answer to the following multiple-choice question based on the video."
_SUBTITLES = "This video's subtitles are listed below:\n{subtitles}\n"
_LISTED = "Question: {question}\nOptions:\n{options}\n" + _LETTER

# Benchmark -> instruction.
INSTRUCTIONS: dict[str, str] = {
    "egoschema": _SELECT + "\n{question}\nOptions:\n{options}\n" + _LETTER + " The best answer is: ",
    "mvbench": _LISTED,
    "perception_test": _LISTED,
    "videomme": (
        _SELECT
        + " Respond with only the letter (A, B, C, or D) of the correct option.\n{question}\n{options}\n"
        + _LETTER
        + " The best answer is: "
    ),
    # The full stop before the last sentence is the original's.
    "tut2017": "Question: {question}\nOptions:\n{options}\n." + _LETTER,
    "vocalsound": "{question}\nOptions:\n{options}\n." + _LETTER,
    "clotho_aqa": "Question: {question}\nAnswer the question using a single word.",
    "avssd": "Identify the event in the video.",
}
# Benchmarks whose prompt is only the question.
BARE_QUESTIONS: tuple[str, ...] = ("activitynet_qa", "avsd", "msvc", "msvd_qa", "music_avqa", "vcgbench")
# Benchmarks whose options already have letters ("A. Apples.").
_LETTERED = ("videomme",)


def instruction(benchmark: str, question: str = "", options: Sequence[str] = (), subtitles: str = "") -> str:
    r"""The text that the official evaluation writes after the placeholder and its line break.

    Args:
        benchmark: key of `INSTRUCTIONS`, or one of `BARE_QUESTIONS`.
        question: the question.
        options: the options to choose from. The function puts letters before them, except for Video-MME, whose options
            already have letters.
        subtitles: lines of the subtitles, for Video-MME.

    Raises:
        ValueError: there is no such benchmark (the message names the most similar one), options are missing, or there
            are options or subtitles that the benchmark does not use.

    Examples:
        >>> instruction("perception_test", "Who left?", ["A man", "A dog", "Nobody"]).splitlines()[:3]
        ['Question: Who left?', 'Options:', '(A) A man']
    """
    known = (*INSTRUCTIONS, *BARE_QUESTIONS)
    if benchmark not in known:
        raise ValueError(f"VideoLLaMA2's evaluation has no benchmark {benchmark!r}: {did_you_mean(benchmark, known)}")
    template = INSTRUCTIONS.get(benchmark, "{question}")
    if bool(options) != ("{options}" in template):
        raise ValueError(f"{benchmark} is asked {'without' if options else 'with'} options.")
    if subtitles and benchmark != "videomme":
        raise ValueError(f"{benchmark} is asked without subtitles.")
    if benchmark not in _LETTERED:
        options = lettered(options)
    asked = template.format(question=question, options="\n".join(options))
    return (_SUBTITLES.format(subtitles=subtitles) if subtitles else "") + asked
