"""How questions about kept media are answered under options of `generate`, so that tokens are those of fresh runs.

one at a time       a batch would change what the option does: samples, guessed tokens, functions of the user
in equal lengths    the option reads the prompt or counts its tokens, so no padding may stand in it
without the cache   the option brings its own cache, or none: the prompt runs whole, from the encoded media
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

# Options that are off with these values, and with `None` and `False`.
OFF: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "guidance_scale": (1.0,),
}
ONE_AT_A_TIME = (
    "do_sample",
    "streamer",
    "prompt_lookup_num_tokens",
    "logits_processor",
    "stopping_criteria",
    "prefix_allowed_tokens_fn",
    "negative_prompt_ids",
    "max_time",
    "custom_generate",
)
IN_EQUAL_LENGTHS = (
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "min_length",
    "max_length",
    "guidance_scale",
    "sequence_bias",
    "bad_words_ids",
    "stop_strings",
    "watermarking_config",
)
WITHOUT_CACHE = ("custom_generate", "cache_implementation")
# Numbers of rows that `generate` makes of each prompt.
COPIES = ("num_beams", "num_return_sequences")


@dataclass(frozen=True)
class HowToAnswer:
    """How questions are answered; see above.

    Attributes:
        alone: one at a time.
        unpadded: only prompts of equal length in one batch.
        uses_cache: behind the kept cache.
        copies: rows that `generate` makes of each prompt.
    """

    alone: bool = False
    unpadded: bool = False
    uses_cache: bool = True
    copies: int = 1


def how_to_answer(value_of: Callable[[str], Any]) -> HowToAnswer:
    """How to answer under the options of a call.

    Args:
        value_of: gives the value of an option of `generate`, wherever it was set; `None` if it was not.

    Raises:
        ValueError: a number of beams or answers is not positive.
    """
    counts = {name: value_of(name) for name in COPIES}
    for name, count in counts.items():
        check_count(name, 1 if count is None else count)
    unpadded = [name for name in IN_EQUAL_LENGTHS if name != "max_length" or value_of("max_new_tokens") is None]
    uses_cache = value_of("use_cache") is not False and not any(value_of(name) for name in WITHOUT_CACHE)
    return HowToAnswer(
        # Media that are encoded already have no form for a batch of whole prompts.
        alone=not uses_cache or any(_is_on(name, value_of(name)) for name in ONE_AT_A_TIME),
        unpadded=any(_is_on(name, value_of(name)) for name in unpadded),
        uses_cache=uses_cache,
        copies=max(1 if count is None else count for count in counts.values()),
    )


def _is_on(name: str, value: Any) -> bool:
    if value is None or value is False or (isinstance(value, list | tuple | Mapping) and not len(value)):
        return False
    return not (isinstance(value, int | float) and value in OFF.get(name, ()))


def end_in_context(config: GenerationConfig, num_ids: int, context: int | None, of_call: Mapping[str, Any]) -> None:
    """Let an answer end where the context of the model ends.

    Args:
        config: of the call; its `max_new_tokens` and `max_length` may be lowered.
        num_ids: tokens of the prompt.
        context: of the model; `None` if it is not known.
        of_call: options of this call. They are not changed silently.

    Raises:
        ValueError: an option of the call asks for more tokens than are left, or the shortest answer is longer.
    """
    if context is None:
        return
    left = context - num_ids
    most = {"max_new_tokens": left, "min_new_tokens": left, "max_length": context, "min_length": context}
    for name, number in most.items():
        value = getattr(config, name, None)
        if value is None or value <= number:
            continue
        if of_call.get(name) is not None or name.startswith("min"):
            raise ValueError(
                f"{name}={value}: {left} of the model's {context} tokens are left behind the question: lower {name}, "
                "ask a shorter question, begin a new conversation, or open the media with fewer frames."
            )
        setattr(config, name, number)


def check_count(name: str, value: Any) -> None:
    """Check a number of things.

    Raises:
        ValueError: it is not a positive whole number.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r:.60}: give a positive whole number.")


__all__ = ["HowToAnswer", "check_count", "end_in_context", "how_to_answer"]
