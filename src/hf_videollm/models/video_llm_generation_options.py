"""Options of transformers' `generate` that this package refuses, and what to use instead.

An option is refused if it would be ignored without a message, or if it would produce wrong tokens. docs/generation.md
lists every option of `generate`.
"""

import inspect
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig, GenerationMixin

# Names that are options of `generate` and of nothing else. `max_new_tokens` is also an option of the pipeline, and
# `max_length` an option of tokenizers, so both are left out.
GENERATE_OPTIONS = frozenset(
    {*GenerationConfig().to_dict(), *inspect.signature(GenerationMixin.generate).parameters}
    | {"assistant_tokenizer", "tokenizer"}
) - {"self", "inputs", "kwargs", "streamer", "max_new_tokens", "max_length"}


@dataclass(frozen=True)
class Refusal:
    """Why an option is refused.

    Args:
        text: text of the error; `{name}` in it is replaced by the name of the option.
        is_harmless: the option has no effect, but gives no wrong tokens. It is refused as an argument of a call, but
            not in a generation configuration, which may have been written for another model.
        unless: name of another argument; if a call passes that argument, too, the option is not refused.
    """

    text: str
    is_harmless: bool = False
    unless: str | None = None


# Values that switch an option off, in addition to `None` and `False`.
OFF: dict[str, tuple[Any, ...]] = {"num_beam_groups": (1,), "diversity_penalty": (0.0,), "penalty_alpha": (0.0,)}

_MOVED = "transformers itself no longer implements {name}, and the code on the Hub that does cannot handle media: "
_LOSES_MEDIA = "{name} turns the prompt into text and tokenizes it again, which loses videos and images: "
_NO_EFFECT = "{name} has no effect on decoder-only models: "

COMMON: dict[str, Refusal] = {
    "penalty_alpha": Refusal(_MOVED + "use do_sample with top_p, repetition_penalty, or a loop as custom_generate."),
    "dola_layers": Refusal(_MOVED + "use repetition_penalty, or a loop as custom_generate."),
    "num_beam_groups": Refusal(_MOVED + "use num_beams with do_sample=True for beams that differ."),
    "diversity_penalty": Refusal(_MOVED + "use num_beams with do_sample=True for beams that differ."),
    "constraints": Refusal(_MOVED + "use prefix_allowed_tokens_fn, or sequence_bias."),
    "force_words_ids": Refusal(_MOVED + "use prefix_allowed_tokens_fn, or sequence_bias."),
    "low_memory": Refusal(_MOVED + "leave it out.", is_harmless=True),
    "use_mtp": Refusal(
        "{name} needs layers that predict several tokens at once, which no design has: use prompt_lookup_num_tokens."
    ),
    "assistant_early_exit": Refusal(
        "{name} needs num_hidden_layers in the configuration of the model itself: use prompt_lookup_num_tokens."
    ),
    "assistant_ensemble_weight": Refusal(
        "{name} mixes in scores of the assistant_model, which are computed without the videos: leave it out."
    ),
    "speculation_type": Refusal("{name} needs a draft model of another kind: use assistant_model alone."),
    "assistant_tokenizer": Refusal(_LOSES_MEDIA + "use an assistant_model with the same tokenizer."),
    "assistant_lookbehind": Refusal("{name} belongs to assistant_tokenizer, which is refused: leave it out.", True),
    "target_lookbehind": Refusal("{name} belongs to assistant_tokenizer, which is refused: leave it out.", True),
    "token_healing": Refusal(_LOSES_MEDIA + "end the prompt at the end of a word."),
    "forced_bos_token_id": Refusal(_NO_EFFECT + "put the token at the end of the prompt.", True),
    "decoder_start_token_id": Refusal(_NO_EFFECT + "put the token at the end of the prompt.", True),
    "continuous_batching_config": Refusal(
        "{name} belongs to continuous batching, which takes only token ids: pass a padded batch to generate.", True
    ),
}

_GUESSES = "LinVT generates from embeddings, with which assisted decoding gives wrong tokens: leave out {name}."
_IDS_OF_ENCODER = "LinVT generates from embeddings, not from ids, so {name} would be ignored: use "

LINVT: dict[str, Refusal] = {
    **COMMON,
    **{
        name: Refusal(_GUESSES)
        for name in ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
    },
    "prefill_chunk_size": Refusal(
        "LinVT generates from embeddings, which {name} does not cut into chunks: leave it out. A video has few tokens, "
        "and the memory of its frames is bounded by vision_chunk_size."
    ),
    "negative_prompt_attention_mask": Refusal(
        "{name} marks padding, and LinVT's image-LLM numbers the positions after padding unlike generate: pass "
        "negative_prompt_ids of one length, without padding."
    ),
    "encoder_repetition_penalty": Refusal(_IDS_OF_ENCODER + "repetition_penalty."),
    "encoder_no_repeat_ngram_size": Refusal(_IDS_OF_ENCODER + "no_repeat_ngram_size."),
}
OFF["encoder_repetition_penalty"] = (1.0,)
OFF["encoder_no_repeat_ngram_size"] = (0,)

IVA: dict[str, Refusal] = {
    **COMMON,
    "prefill_chunk_size": Refusal(
        "{name} cuts the prompt, but IVA's adapter needs its frames and query tokens in one call: leave it out. Memory "
        "of long videos is bounded by vision_chunk_size and max_frames_on_device."
    ),
    "assistant_model": Refusal(
        "IVA's adapter needs the video, but transformers does not pass the video on to {name}: use "
        "prompt_lookup_num_tokens."
    ),
    "guidance_scale": Refusal(
        "{name} without negative_prompt_ids runs the model on the last token of the prompt alone, without the video; "
        "in IVA this is a query token, which needs a video: pass negative_prompt_ids, a question without a video and "
        "without query tokens.",
        unless="negative_prompt_ids",
    ),
}
OFF["guidance_scale"] = (1, 1.0)


def named_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The positional and keyword arguments of a call of `generate` as one dict of names to values."""
    names = list(inspect.signature(GenerationMixin.generate).parameters)[1:]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def option_value(model: Any, name: str, arguments: dict[str, Any], with_configs: bool = True) -> Any:
    """The value of an option in a call of `generate`; `None` if it is not set.

    The call's own argument is used first, then its `generation_config`, then the model's `generation_config`.

    Args:
        model: the model whose `generate` is called.
        name: name of the option.
        arguments: the arguments of the call, by name.
        with_configs: also use the two configurations.
    """
    if name in arguments:
        return arguments[name]
    # transformers uses the model's configuration for options that the configuration of the call does not set.
    configs = (arguments.get("generation_config"), model.generation_config) if with_configs else ()
    return next((value for config in configs if (value := getattr(config, name, None)) is not None), None)


def refuse_options(model: Any, refusals: dict[str, Refusal], arguments: dict[str, Any]) -> None:
    """Refuse the options of a call of `generate` that the design does not support.

    Args:
        model: the model whose `generate` is called.
        refusals: the options that the design refuses.
        arguments: the arguments of the call, by name.

    Raises:
        TypeError: `streamer` is no streamer.
        ValueError: an option is refused; the message names it and says what to use instead.
    """
    for name, refusal in refusals.items():
        value = option_value(model, name, arguments, with_configs=not refusal.is_harmless)
        is_off = value is None or value is False or any(value is off or value == off for off in OFF.get(name, ()))
        if not is_off and (refusal.unless is None or arguments.get(refusal.unless) is None):
            raise ValueError(refusal.text.format(name=name))
    streamer = arguments.get("streamer")
    if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise TypeError(f"streamer must have the methods put and end, as TextStreamer has, not {streamer!r:.100}.")
    if arguments.get("is_assistant"):
        raise ValueError("is_assistant is set by transformers when a model assists another model: leave it out.")
    _check_cache_implementation(model, option_value(model, "cache_implementation", arguments))
    assistant = arguments.get("assistant_model")
    if assistant is not None and "pixel_values_videos" not in inspect.signature(assistant.forward).parameters:
        raise ValueError(
            f"assistant_model is a {type(assistant).__name__}, which cannot be given the videos of the prompt: use a "
            f"smaller {type(model).__name__} with the same tokenizer, or prompt_lookup_num_tokens."
        )


def _check_cache_implementation(model: Any, name: Any) -> None:
    if name == "paged":
        raise ValueError(
            "cache_implementation='paged' is continuous batching, which takes only token ids and drops the videos: "
            "pass a padded batch to generate, with cache_implementation 'dynamic' or 'static'."
        )
    if isinstance(name, str) and name.startswith("offloaded") and model.device.type == "cpu":
        raise ValueError(
            f"cache_implementation={name!r} keeps the cache on the CPU, where this model is already: "
            f"use {'static' if 'static' in name else 'dynamic'!r}."
        )


__all__ = [
    "COMMON",
    "GENERATE_OPTIONS",
    "IVA",
    "LINVT",
    "OFF",
    "Refusal",
    "named_arguments",
    "option_value",
    "refuse_options",
]
