"""Prompts and generation settings of PLLaVA's official evaluation and training.

Every text and number here comes from magic-research/PLLaVA @ 6f49fd2. Every letter is kept, also the mistakes (missing
blanks, a missing `<|im_start|>system`), because scores depend on them. Names are those of its registry of
conversations. Vicuna styles are for the 7b and 13b models, ChatML styles (`*_llavanext`) for the 34b model, whose base
is Yi.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from ..models.video_llm_option_names import did_you_mean
from .prompting import letter_of, lettered
from .prompts import (
    Piece,
    PromptStyle,
    conversation_pieces,
    to_chat_template,
    without_query_prompts,
)

__all__ = [
    "DESCRIBE_QUERY",
    "RECAPTION_QUERY",
    "SETTINGS",
    "STYLES",
    "Benchmark",
    "BenchmarkSettings",
    "ModelSize",
    "chat_template",
    "mvbench_answer",
    "mvbench_query",
    "prompt_style",
    "training_pieces",
]

ModelSize = Literal["7b", "13b", "34b"]
Benchmark = Literal["mvbench", "vcgbench", "videoqabench", "recaption", "single_test", "demo"]

# --- System texts and questions, exactly as in the official evaluation ---

_VIDEO_CHATGPT = (
    "You are Video-ChatGPT, a large vision-language assistant. You are able to understand the video content that the "
    "user provides, and assist the user with a variety of tasks using natural language.Follow the instructions "
    "carefully and explain your answers in detail based on the provided video."
)
_MVBENCH = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)
_RECAPTION = (
    "You are a powerful Video Magic ChatBot, a large vision-language assistant. \n"
    "You are able to understand the video content that the user provides and assist the user in a video recaptioning "
    "task.\n"
    "The user will provide you with the video and maybe some extra noisy information to help you out. Make use of the "
    "information in a proper way to be competent for the recaption job\n"
    "### INSTRUCTIONS:\n"
    "1. Follow the user's instruction.\n"
    "2. Be critical yet believe in yourself.\n"
)
_DEMO = (
    "You are a powerful Video Magic ChatBot, a large vision-language assistant. \n"
    "You are able to understand the video content that the user provides and assist the user in a video-language "
    "related task.\n"
    "The user might provide you with the video and maybe some extra noisy information to help you out or ask you a "
    "question. Make use of the information in a proper way to be competent for the job.\n"
    "### INSTRUCTIONS:\n"
    "1. Follow the user's instruction.\n"
    "2. Be critical yet believe in yourself.\n"
)
_VIDEOQA_PRE = (
    "The input consists of a sequence of key frames from a video. Answer the question concisely first and followed by "
    "significant events, characters, or objects that appear throughout the frames. Question:"
)
RECAPTION_QUERY = (
    "You are to assist me in accomplishing a task about the input video. Reply to me with a precise yet detailed "
    "response. For how you would succeed in the recaptioning task, read the following Instructions section and Then, "
    "make your response with a elaborate paragraph.\n"
    "# Instructions\n"
    "1. Avoid providing over detailed information such as color, counts of any objects as you are terrible regarding "
    "observing these details\n"
    "2. Instead, you should carefully go over the provided video and reason about key information about the overall "
    "video\n"
    "3. If you are not sure about something, do not include it in you response.\n"
    "# Task\n"
    "Describe the background, characters and the actions in the provided video.\n"
)
DESCRIBE_QUERY = "Describe the video in details."
_MVBENCH_POST_QUERY = "\nOnly give the best option."
_MVBENCH_ANSWER_PREFIX = "Best option:("

# --- Styles ---

# The user's role ends with a blank in the evaluation styles, but not in `plain` and not in training.
_VICUNA = PromptStyle(user_role="USER: ", media_suffix="\n", media_alone=True)
_CHATML = PromptStyle(
    separator="<|im_end|>\n",
    user_role="<|im_start|>user\n",
    user_end="<|im_end|>\n",
    assistant_role="<|im_start|>assistant\n",
    assistant_end="<|im_end|>\n",
    media_suffix="\n",
    media_alone=True,
)
_VIDEOQA: dict[str, Any] = {
    "media_alone": False,
    "media_suffix": "\n ",
    "pre_query": _VIDEOQA_PRE,
    "post_query": "\n",
    "answer_prefix": "\nAnswer: In the video,",
}

STYLES: dict[str, PromptStyle] = {
    "plain": PromptStyle(),
    "eval_vcgbench": replace(_VICUNA, system=_VIDEO_CHATGPT),
    "eval_vcg_llavanext": replace(_CHATML, system=_VIDEO_CHATGPT),
    "eval_mvbench": replace(_VICUNA, system=_MVBENCH),
    "eval_mvbench_llavanext": replace(_CHATML, system=_VIDEO_CHATGPT),
    "eval_videoqabench": replace(_VICUNA, **_VIDEOQA),
    "eval_videoqa_llavanext": replace(_CHATML, system="<|im_start|>system\nAnswer the question.", **_VIDEOQA),
    "eval_recaption": replace(_VICUNA, system=_RECAPTION),
    "eval_recaption_llavanext": replace(_CHATML, system=_RECAPTION),
    # The demo changes `plain` into this style, because there the video is uploaded in a separate turn.
    "demo": PromptStyle(system=_DEMO, media_alone=True),
    # In training, the end mark also follows questions. The released scripts use the styles without `_alone`.
    "train_vicuna": PromptStyle(user_end="</s>", media_suffix="\n"),
    "train_vicuna_alone": PromptStyle(user_end="</s>", media_suffix="", media_alone=True),
    "train_yi": replace(_CHATML, media_alone=False),
    "train_yi_alone": replace(_CHATML, media_suffix=""),
}


@dataclass(frozen=True)
class BenchmarkSettings:
    """The settings with which the official code runs one benchmark.

    Attributes:
        vicuna_style: name of the style of the 7b and 13b models.
        chatml_style: name of the style of the 34b model.
        max_new_tokens: maximum length of an answer.
        post_query: replaces the one of the style, if set.
        answer_prefix: replaces the one of the style, if set.
        return_prefix: text that is put before the extracted answer, because it was part of the answer prefix.
        stop_keywords: texts at which an answer ends.
        lora_alpha: strength of the LoRA at inference (it was trained with 32).
        num_frames: frames per video.
        pooling_shape: shape after pooling.
        resize_shortest: short side to which frames are resized before the processor gets them.
    """

    vicuna_style: str
    chatml_style: str
    max_new_tokens: int
    post_query: str | None = None
    answer_prefix: str | None = None
    return_prefix: str = ""
    stop_keywords: tuple[str, ...] = ()
    lora_alpha: float = 4
    num_frames: int = 16
    pooling_shape: tuple[int, int, int] = (16, 12, 12)
    resize_shortest: int | None = None

    def generation_kwargs(self) -> dict[str, Any]:
        """Options of `model.generate`.

        The original also passes `top_p=0.9` and `temperature=1.0`. They are not in the result, because greedy decoding
        ignores them and transformers warns about them. (By default, the original `pllava_answer` samples, but every
        official script switches sampling off.)
        """
        return {
            "do_sample": False,
            "num_beams": 1,
            "min_length": 1,
            "repetition_penalty": 1.0,
            "length_penalty": 1,
            "max_new_tokens": self.max_new_tokens,
        }


SETTINGS: dict[Benchmark, BenchmarkSettings] = {
    "mvbench": BenchmarkSettings(
        "eval_mvbench",
        "eval_mvbench_llavanext",
        max_new_tokens=100,
        post_query=_MVBENCH_POST_QUERY,
        answer_prefix=_MVBENCH_ANSWER_PREFIX,
        return_prefix="(",
    ),
    "vcgbench": BenchmarkSettings(
        "eval_vcgbench", "eval_vcg_llavanext", max_new_tokens=100, stop_keywords=("###", "USER")
    ),
    "videoqabench": BenchmarkSettings("eval_videoqabench", "eval_videoqa_llavanext", max_new_tokens=100),
    "recaption": BenchmarkSettings("eval_recaption", "eval_recaption_llavanext", max_new_tokens=400),
    # A quick test that the official code runs before a benchmark: DESCRIBE_QUERY in the style of the benchmark or in
    # `plain`.
    "single_test": BenchmarkSettings("plain", "eval_vcg_llavanext", max_new_tokens=256, resize_shortest=672),
    # The released 34b demo names a style that is not registered. The most similar registered style is used here.
    "demo": BenchmarkSettings("demo", "eval_vcg_llavanext", max_new_tokens=200),
}


def prompt_style(benchmark: Benchmark, size: ModelSize = "7b", *, as_released: bool = False) -> PromptStyle:
    """The style of a benchmark for one model size, with the benchmark's texts around questions and answers.

    Args:
        as_released: repeat a mistake of the released `scripts/eval.sh`: because of a misspelt variable, it asks the 13b
            model the questions of VideoQA in the MVBench style.

    Raises:
        ValueError: no such benchmark or size.
    """
    if benchmark not in SETTINGS or size not in get_args(ModelSize):
        hint = (
            did_you_mean(benchmark, SETTINGS) if benchmark not in SETTINGS else did_you_mean(size, get_args(ModelSize))
        )
        raise ValueError(
            f"PLLaVA's evaluation has the benchmarks {', '.join(SETTINGS)} and the sizes "
            f"{', '.join(get_args(ModelSize))}, not {benchmark!r} with {size!r}: {hint}"
        )
    settings = SETTINGS[benchmark]
    name = settings.chatml_style if size == "34b" else settings.vicuna_style
    if as_released and benchmark == "videoqabench" and size == "13b":
        name = "eval_mvbench"
    style = STYLES[name]
    if settings.post_query is not None:
        style = replace(style, post_query=settings.post_query)
    if settings.answer_prefix is not None:
        style = replace(style, answer_prefix=settings.answer_prefix)
    return style


def chat_template(name: str, benchmark: Benchmark | None = None) -> str:
    """A style as a chat template for `PllavaProcessor`: for its attribute `chat_template`, or for a single call.

    Args:
        name: key of `STYLES`.
        benchmark: put the texts of this benchmark around every question and answer. With `None`, there are no such
            texts, which is right for an open conversation in this style.

    Raises:
        ValueError: no such style or benchmark.

    Example:
        >>> from hf_videollm.evaluation.prompts_pllava import chat_template
        >>> template = chat_template("eval_mvbench", "mvbench")
        >>> "Best option:(" in template
        True
    """
    if name not in STYLES:
        hint = did_you_mean(name, STYLES)
        raise ValueError(f"PLLaVA has the prompt styles {', '.join(STYLES)}, not {name!r}: {hint}")
    if benchmark is None:
        return to_chat_template(without_query_prompts(STYLES[name]))
    own = prompt_style(benchmark)
    query_prompts = {field: getattr(own, field) for field in ("pre_query", "post_query", "answer_prefix")}
    return to_chat_template(replace(STYLES[name], **query_prompts))


def training_pieces(
    turns: Sequence[tuple[str, str]],
    *,
    size: ModelSize = "7b",
    instruction: str = "",
    media_alone: bool = False,
    num_media: int = 1,
    placeholder: str = "<video>",
) -> list[Piece]:
    """The text on which PLLaVA is trained, in the pieces that the official code tokenises one by one.

    The first piece is tokenised with a beginning-of-sequence token, all others without special tokens. The pieces with
    `learned` are the labels. `prompts.join_pieces` gives the whole text, and `prompts.label_spans` the labels in it.

    Args:
        turns: (question, answer). For a caption, the question is empty.
        size: size of the model.
        instruction: the field `i` of the first question in VideoChat2-IT, which is used as system text.
        media_alone: whether media have their own turn; the released scripts do not use this.
        num_media: number of placeholders.
        placeholder: the text that stands for one medium.

    Raises:
        ValueError: no such size.
    """
    _check_size(size)
    name = ("train_yi" if size == "34b" else "train_vicuna") + ("_alone" if media_alone else "")
    return conversation_pieces(replace(STYLES[name], system=instruction), turns, num_media, placeholder)


def _check_size(size: str) -> None:
    sizes = get_args(ModelSize)
    if size not in sizes:
        raise ValueError(f"PLLaVA has no size {size!r}: {did_you_mean(size, sizes)}")


def mvbench_query(question: str, options: Sequence[str]) -> str:
    r"""The text of the question for a row of MVBench.

    Example:
        >>> mvbench_query("Who left?", ["A man", "A dog"])
        'Question: Who left?\nOptions:\n(A) A man\n(B) A dog'
    """
    return "\n".join([f"Question: {question}", "Options:", *lettered(options)]).rstrip()


def mvbench_answer(options: Sequence[str], index: int) -> str:
    """An option as MVBench writes it, with letter and text, such as `(B) A dog`."""
    return f"({letter_of(index)}) {options[index]}"
