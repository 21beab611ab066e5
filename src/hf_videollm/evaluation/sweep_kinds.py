"""The sweeps of the papers: values as a user writes them, and the settings that they stand for.

- alpha: strength of the LoRA (PLLaVA, Figure 9), `0,4,32`
- pooling: time x height x width of the pooled video, also from another number of frames (PLLaVA, Figure 7),
  `16x12x12,4x12x12@64`
- frames: frames of a video, for every design, `4,8,16`
- tokens-per-frame: tokens of a frame that are kept (FTFV, Table 5), `16,64,256`
- prompt-styles: other prompts and role tags (PLLaVA, Figure 2), names of styles or `USER:/ASSISTANT:`
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..models.configuration_video_llm import context_length
from ..models.video_llm_contract import ConfigContract, ModelContract
from ..models.video_llm_option_names import did_you_mean
from ..pair_check import check_pair
from .items import Item
from .prompting import Prompt, PromptRule
from .prompts import PromptStyle, to_chat_template
from .sweep import Setting
from .task import Task

__all__ = [
    "SWEEPS",
    "alpha_settings",
    "frames_settings",
    "make_settings",
    "on_one_axis",
    "pooling_settings",
    "style_settings",
    "text_of",
    "tokens_settings",
]

# Where the user gives no values: those of the papers' figures and tables. Styles are then all that the task has.
ALPHAS = ("0", "4", "8", "12", "16", "20", "24", "28", "32")
POOLINGS = tuple(f"4x{side}x{side}" for side in (1, 2, 4, 6, 8, 12, 16, 20, 24))
FRAMES = ("4", "8", "16", "32")
TOKENS = ("8", "16", "32", "64", "128", "256")
# Contexts of language models end before; prompts of more tokens would run for hours, or out of memory.
MOST_TOKENS = 2**15
POOLING = re.compile(r"(\d+)x(\d+)x(\d+)(?:@(\d+))?")


def make_settings(kind: str, values: Sequence[str], pipe: Any, task: Task) -> list[Setting]:
    """The settings of a sweep.

    Args:
        kind: key of `SWEEPS`.
        values: as the user writes them; those of the paper when empty.
        pipe: from `load_pipeline`. What its design cannot do is refused before anything runs.
        task: the benchmark.

    Raises:
        ValueError: there is no such sweep, the design lacks what is to be changed, or a value is impossible.
    """
    if kind not in SWEEPS:
        raise ValueError(f"There is no sweep {kind!r}: {did_you_mean(kind, SWEEPS)}")
    return SWEEPS[kind](values, pipe, task)


def text_of(kind: str, value: Any) -> str:
    """A value of `Setting.value`, as a user writes it.

    Example:
        >>> text_of("pooling", {"pooling_shape": [4, 12, 12], "num_frames": 64}), text_of("alpha", 4.0)
        ('4x12x12@64', '4.0')
    """
    if kind != "pooling":
        return str(value)
    shape = "x".join(map(str, value["pooling_shape"]))
    return f"{shape}@{value['num_frames']}" if "num_frames" in value else shape


def alpha_settings(values: Sequence[str], pipe: Any, task: Task) -> list[Setting]:
    """The LoRA's alpha of each run.

    Raises:
        ValueError: the model has no LoRA that can be set, or a value is no number of at least 0.
    """
    model = pipe.model
    if not (isinstance(model, ModelContract) and model.keeps_lora):
        raise ValueError(f"{type(model).__name__} keeps no LoRA whose alpha could be set: PLLaVA does.")
    model.lora_layers()  # type: ignore[attr-defined]
    settings = []
    for text in values or ALPHAS:
        alpha = _number(text, float, "alpha", "a number of at least 0")
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha must be a number of at least 0, not {text!r}.")
        settings.append(Setting(f"alpha-{_short(alpha)}", alpha, (alpha,), _with_alpha(alpha), x=alpha))
    return settings


def pooling_settings(values: Sequence[str], pipe: Any, task: Task) -> list[Setting]:
    """The pooling shape of each run, as `TxHxW` or `TxHxW@FRAMES`.

    Raises:
        ValueError: the design does not pool so, a value is no shape, or it makes more tokens than can be read.
    """
    config = pipe.model.config
    if config.pooling_shape is None:
        raise ValueError(f"{type(pipe.model).__name__} has no pooling shape: PLLaVA does.")
    settings = []
    for text in values or POOLINGS:
        match = POOLING.fullmatch(text)
        if match is None or "0" in (match[1], match[2], match[3], match[4]):
            raise ValueError(f"A pooling shape is TxHxW or TxHxW@FRAMES, such as 16x12x12 or 4x12x12@64, not {text!r}.")
        shape = [int(match[number]) for number in (1, 2, 3)]
        _check_tokens(text, math.prod(shape), config)
        frames = None if match[4] is None else int(match[4])
        given = {} if frames is None else {"num_frames": frames}
        settings.append(
            Setting(
                "pooling-" + text.replace("@", "-frames-"),
                {"pooling_shape": shape, **given},
                (*shape, frames or 0),
                _with_pooling(shape),
                processor_options=given,
                model_changes={"pooling_shape": shape},
                **_pooling_axis(shape, frames),
            )
        )
    return on_one_axis(settings)


def _check_tokens(text: str, count: int, config: Any) -> None:
    context = context_length(config) or 0
    most = max(context, MOST_TOKENS)
    if count > most:
        raise ValueError(
            f"The pooling shape {text} makes {count:,} tokens of a video, more than {most:,}; the language model was "
            f"made for {context:,}. Give a smaller shape."
        )


def on_one_axis(settings: Sequence[Setting]) -> list[Setting]:
    """The settings without places on an axis, if they have none in common: sides and rates of pooling have not."""
    are_rates = {isinstance(setting.value, Mapping) and "num_frames" in setting.value for setting in settings}
    return [replace(setting, x=None, series="") if len(are_rates) > 1 else setting for setting in settings]


def frames_settings(values: Sequence[str], pipe: Any, task: Task) -> list[Setting]:
    """The number of frames of each run.

    Raises:
        ValueError: a value is no whole number of at least 1.
    """
    counts = [_number(text, int, "A number of frames", "a whole number of at least 1") for text in values or FRAMES]
    return [
        Setting(f"frames-{count}", count, (count,), processor_options={"num_frames": count}, x=count)
        for count in counts
    ]


def tokens_settings(values: Sequence[str], pipe: Any, task: Task) -> list[Setting]:
    """K of each run, the tokens of a frame that are kept; powers of two and N where none are given.

    Raises:
        ValueError: the design does not choose tokens, or a value is not between 1 and N.
    """
    config = pipe.model.config
    most = config.num_queries if isinstance(config, ConfigContract) else None
    if most is None or "num_tokens_per_frame" not in pipe.media_options():
        raise ValueError(f"{type(pipe.model).__name__} cannot choose the tokens of a frame: FTFV can.")
    values = values or [*(value for value in TOKENS if int(value) < most), str(most)]
    counts = [_number(text, int, "A number of tokens", f"a whole number from 1 to {most}", most) for text in values]
    return [
        Setting(f"tokens-{count}", count, (count,), processor_options={"num_tokens_per_frame": count}, x=count)
        for count in counts
    ]


def style_settings(values: Sequence[str], pipe: Any, task: Task) -> list[Setting]:
    """The prompt style of each run: a name that the task knows, or two role tags with a slash between.

    Role tags take the place of those in PLLaVA's chat template, around the task's default question.

    Raises:
        ValueError: the task does not know a style, or the design does not write role tags as PLLaVA does.
    """
    settings = []
    for text in values or list(task.prompts):
        if "/" not in text:
            task.prompt_rule(text)
            settings.append(Setting(f"style-{text}", text, (0, list(task.prompts).index(text)), prompt_style=text))
            continue
        if pipe.model.config.model_type != "pllava":
            raise ValueError(f"Role tags such as {text!r} are for PLLaVA's chat template: name prompt styles instead.")
        user, _, assistant = (part.strip() for part in text.partition("/"))
        if not user or not assistant:
            raise ValueError(f"Role tags are USER/ASSISTANT, such as Human:/Robot:, not {text!r}.")
        name = f"roles-{_plain_name(user)}-{_plain_name(assistant)}"
        rule = _with_roles(task.prompt_rule("default"), user, assistant)
        settings.append(Setting(name, text, (1, text), prompt_style=name, prompts={name: rule}))
    return settings


SWEEPS: dict[str, Callable[[Sequence[str], Any, Task], list[Setting]]] = {
    "alpha": alpha_settings,
    "pooling": pooling_settings,
    "frames": frames_settings,
    "tokens-per-frame": tokens_settings,
    "prompt-styles": style_settings,
}


def _with_alpha(alpha: float) -> Callable[[Any], Any]:
    @contextmanager
    def set_up(pipe: Any) -> Iterator[None]:
        model = pipe.model
        name, layers, written = model.lora_name(), model.lora_layers(), model.config.lora_alpha
        scales = {key: layer.scaling[name] for key, layer in layers.items()}
        try:
            model.set_lora_alpha(alpha)
            yield
        finally:
            for key, layer in layers.items():
                layer.scaling[name] = scales[key]
            model.config.lora_alpha = written

    return set_up


def _with_pooling(shape: Sequence[int]) -> Callable[[Any], Any]:
    @contextmanager
    def set_up(pipe: Any) -> Iterator[None]:
        base = pipe.model.base_model
        holders = [pipe.model.config, base.config, base.connector, pipe.processor]
        before = [holder.pooling_shape for holder in holders]
        try:
            for holder, kept in zip(holders, before, strict=True):
                # The connector holds a tuple, the others a list.
                holder.pooling_shape = type(kept)(shape)
            check_pair(pipe.model.config, pipe.processor)
            yield
        finally:
            for holder, kept in zip(holders, before, strict=True):
                holder.pooling_shape = kept

    return set_up


def _pooling_axis(shape: Sequence[int], frames: int | None) -> dict[str, Any]:
    """Place in the plot: side of a square as in Figure 7 a and b, or downsampling rate in percent as in c and d."""
    time, height, width = shape
    if frames is not None:
        return {"x": 100 * time / frames, "series": f"{time} x {height} x {width}"}
    return {"x": float(height) if height == width else None, "series": f"time {time}"}


def _with_roles(rule: PromptRule, user: str, assistant: str) -> PromptRule:
    """The rule with other role tags. With `USER:` and `ASSISTANT:`, the prompt is that of PLLaVA's chat template."""
    template = to_chat_template(PromptStyle(user_role=f"{user} ", media_suffix="\n ", assistant_role=assistant))

    def asked(item: Item, question: str) -> Prompt:
        return replace(rule(item, question), chat_template=template)

    return asked


def _plain_name(tag: str) -> str:
    """A role tag as part of a folder's name; signs that names of files cannot hold become their numbers."""
    plain = tag.removesuffix(":")
    return "".join(sign if sign.isalnum() or sign in "_." else f"~{ord(sign):x}" for sign in plain) + (
        "" if plain != tag else "~"
    )


def _number(text: str, kind: type, name: str, wanted: str, most: int | None = None) -> Any:
    """A value as a number.

    Raises:
        ValueError: it is none, or a whole number below 1 or above `most`.
    """
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or (kind is int and (number < 1 or (most is not None and number > most))):
        raise ValueError(f"{name} must be {wanted}, not {text!r}.")
    return number


def _short(number: float) -> str:
    """A number as text, from which it can be read again."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)
