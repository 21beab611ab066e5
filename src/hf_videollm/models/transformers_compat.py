"""All code that depends on the installed release of a library, mostly of transformers (5.20 to 5.24).

No other file checks which release is installed, or contains code for one release only. The comment "Until X is the
oldest supported release" means that the section below it can be deleted then. The code checks which features a release
has instead of comparing version numbers, so it also works with later releases.
"""

import inspect
import re
import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
import transformers
from transformers import GenerationMixin, PreTrainedModel, QuantizedCache
from transformers.modeling_outputs import BaseModelOutputWithPast

# --- The key-value cache is called `past_key_values` up to 5.23, and `cache` from 5.24 on. ----------------------------
# Until 5.24 is the oldest supported release. After that, callers may still use the old name (as an argument of our
# `forward` and `generate`, and as an attribute of our outputs) until transformers 6.0 removes it from its own classes.

# The name of the cache in the installed release, as an attribute of outputs and as an argument of models.
CACHE_NAME = "cache" if "cache" in {field.name for field in fields(BaseModelOutputWithPast)} else "past_key_values"
CACHE_NAMES = ("cache", "past_key_values")
OTHER_CACHE_NAME = "past_key_values" if CACHE_NAME == "cache" else "cache"


def one_cache(cache: Any, past_key_values: Any) -> Any:
    """The cache that was passed as `cache` or as `past_key_values`; `None` without one.

    Raises:
        ValueError: both were passed, and they differ.
    """
    if cache is not None and past_key_values is not None and cache is not past_key_values:
        raise ValueError("cache and past_key_values are two names of the same argument: pass one of them.")
    return past_key_values if cache is None else cache


def forward_cache(cache: Any, past_key_values: Any) -> Any:
    """Like `one_cache`, for the arguments of a `forward`; on 5.24 and later it warns about the old name.

    In transformers' own models, `forward` accepts the old name up to 5.40, with a warning. Models of this package
    accept it for longer, because it is the only name that works on older releases. So they raise only a
    `PendingDeprecationWarning`, which Python hides by default.

    Raises:
        ValueError: both were passed, and they differ.
    """
    if CACHE_NAME == "cache" and past_key_values is not None and not torch.compiler.is_compiling():
        message = "`past_key_values` is deprecated in transformers: `cache` is its name from transformers 5.24 on."
        warnings.warn(message, PendingDeprecationWarning, stacklevel=2)
    return one_cache(cache, past_key_values)


def given_cache(arguments: dict[str, Any]) -> Any:
    """The cache in the keyword arguments of a call, under either name; `None` without one."""
    return one_cache(arguments.get("cache"), arguments.get("past_key_values"))


def rename_cache(arguments: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a call, with the cache renamed to the name in the installed release."""
    if OTHER_CACHE_NAME not in arguments:
        return arguments
    others = {name: value for name, value in arguments.items() if name not in CACHE_NAMES}
    return {**others, CACHE_NAME: given_cache(arguments)}


def cache_argument(module: torch.nn.Module) -> str:
    """The name of the cache argument in a model's `forward`. Models with remote code may still use the old name.

    Call this once, when a model is created: `torch.compile` cannot compile the inspection of a signature.
    """
    accepted = inspect.signature(type(module).forward).parameters
    return next((name for name in CACHE_NAMES if name in accepted), CACHE_NAME)


def cache_of(output: Any) -> Any:
    """The cache in an output of a transformers model; `None` without one."""
    return getattr(output, CACHE_NAME, None)


def is_empty(cache: Any, num_new_tokens: int) -> bool:
    """Whether no tokens are in a cache; also true without a cache.

    A static cache keeps its length in a tensor. Reading it would make Python wait for the GPU in every decoding step.
    So for a single new token, a static cache that was ever used counts as not empty, even if it was reset after that.

    Args:
        cache: the cache of a call.
        num_new_tokens: how many tokens each row of this call has.
    """
    if cache is None:
        return True
    length = cache.get_seq_length()
    if isinstance(length, torch.Tensor) and num_new_tokens == 1:
        return False
    return bool(length == 0)


def name_cache(output: Any) -> Any:
    """Makes the cache of a transformers output readable as `output.cache` on every release; returns the output."""
    if CACHE_NAME != "cache" and hasattr(output, CACHE_NAME):
        output.cache = cache_of(output)
    return output


if CACHE_NAME == "cache":

    class CacheNamesOutput:
        """Mixin for output classes of transformers, listed first among the bases: the cache has both names."""

        @property
        def past_key_values(self) -> Any:
            """The cache under its old name, without the warning that transformers' own property prints."""
            return cache_of(self)

else:

    class CacheNamesOutput:  # type: ignore[no-redef]
        """Mixin for output classes of transformers, listed first among the bases: the cache has both names."""

        @property
        def cache(self) -> Any:
            """The cache under the name that it has from transformers 5.24 on."""
            return cache_of(self)


class CacheNamesGenerationMixin(GenerationMixin):
    """A `GenerationMixin` whose methods accept the cache as `cache` or as `past_key_values`, on every release.

    Up to 5.23, transformers' `generate` would pass an argument `cache` to the model as an unknown input, and create a
    second cache itself. From 5.24 on, it warns about `past_key_values`.
    """

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; a cache may be passed as `cache` or as `past_key_values`."""
        return name_cache(super().generate(*args, **rename_cache(kwargs)))

    # `inputs_embeds` must be in this signature: `generate` inspects it to find out whether the model accepts them.
    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As in transformers; a cache may be passed as `cache` or as `past_key_values`."""
        renamed = rename_cache(kwargs)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, **renamed
        )
        return inputs


# --- Up to 5.22, `generate` passes only `token_type_ids` to a model's `create_masks_for_generate`. --------------------
# Until 5.23 is the oldest supported release, which also passes `mm_token_type_ids`.

# The argument in which LinVT passes the types of tokens to `create_masks_for_generate`.
MASK_TYPES = "token_type_ids"


# --- Caches that `crop` cannot shorten. -------------------------------------------------------------------------------
# Only the branch for quantized caches depends on the release: until 5.24 is the oldest supported one.


def why_not_croppable(cache: Any) -> str | None:
    """The class names of the layers that `crop` could not bring back to an earlier state; `None` if it can be called.

    `crop` could fail after it has shortened some of the layers. So this checks all layers first; it changes none.
    """
    layers = getattr(cache, "layers", None) or [cache]
    if not getattr(cache, "is_croppable", True):
        wrong = [layer for layer in layers if not getattr(layer, "is_croppable", False)] or layers
    elif isinstance(cache, QuantizedCache):
        # Up to 5.23, quantized caches claim that they can be cropped, but then count their quantized tokens wrongly.
        wrong = layers
    else:
        wrong = [layer for layer in layers if _has_forgotten(layer) or not hasattr(layer, "crop")]
    return ", ".join(sorted({type(layer).__name__ for layer in wrong})) or None


def _has_forgotten(layer: Any) -> bool:
    """Whether a sliding-window layer has already dropped the tokens before its window, which `crop` cannot restore."""
    window = getattr(layer, "sliding_window", None) if getattr(layer, "is_sliding", False) else None
    return window is not None and not getattr(layer, "record_past", False) and layer.get_seq_length() >= window


# --- Up to 5.22, gradient checkpointing runs the hooks of a layer again when it recomputes the layer. -----------------
# Until 5.23 is the oldest supported release.


class _HeldGradients(torch.autograd.Function):
    """Returns the embeddings unchanged; its backward pass sends the gradients in `replay_frames` on to the frames."""

    @staticmethod
    def forward(ctx: Any, inputs_embeds: torch.Tensor, context: Any, *features: torch.Tensor) -> Any:
        ctx.context = context
        ctx.num_features = len(features)
        return inputs_embeds.view_as(inputs_embeds)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        held = ctx.context.replay_frames
        of_frames = [None] * ctx.num_features if held is None else [tensor.grad for tensor in held.features]
        ctx.context.replay_frames = None
        return gradients[0], None, *of_frames


def hold_gradients(inputs_embeds: torch.Tensor, context: Any) -> torch.Tensor:
    """Makes gradients reach the vision tower although gradient checkpointing recomputes the hooks of IVA's layers.

    With reentrant checkpointing, each recomputed layer runs its own backward pass. Several of these passes would go
    through the frames into the vision tower, but the graph of the tower can be traversed only once. So each pass ends
    at a copy of the frames (`context.replay_frames`), which sums up the gradients. The backward pass reaches the
    embeddings last, and from there the sum is sent into the vision tower. Without reentrant checkpointing, or with a
    frozen vision tower, this has no effect.

    Args:
        inputs_embeds: `(batch, length, width)`.
        context: an `AdapterContext` of `iva_hooks`.

    Returns:
        The same embeddings, to be used from here on.
    """
    if not context.frames.requires_grad or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return inputs_embeds
    held: torch.Tensor = _HeldGradients.apply(inputs_embeds, context, *context.frames.features)
    return held


# --- "Gradient checkpointing" of 5.22 and earlier is called "activation checkpointing" from 5.23 on. ------------------
# Until 5.23 is the oldest supported release.

_CHECKPOINTING = "activation" if hasattr(PreTrainedModel, "activation_checkpointing_enable") else "gradient"


def rename_checkpointing(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Renames checkpointing options of `TrainingArguments`, given under either name, for the installed release."""
    pattern = re.compile(r"^(activation|gradient)(?=_checkpointing(_kwargs)?$)")
    return {pattern.sub(_CHECKPOINTING, name): value for name, value in arguments.items()}


def enable_checkpointing(model: PreTrainedModel, options: dict[str, Any] | None = None) -> None:
    """Turns on gradient checkpointing, which needs less memory in training and more computation.

    Args:
        model: the model.
        options: keyword arguments of `torch.utils.checkpoint.checkpoint`.
    """
    getattr(model, f"{_CHECKPOINTING}_checkpointing_enable")(options)


def disable_checkpointing(model: PreTrainedModel) -> None:
    """Turns gradient checkpointing off."""
    getattr(model, f"{_CHECKPOINTING}_checkpointing_disable")()


# --- Processors. ------------------------------------------------------------------------------------------------------


def add_defaults(kwargs_class: Any) -> Any:
    """Class decorator for the `ProcessorKwargs` of a processor: adds an empty `_defaults`.

    Up to 5.22, transformers reads this attribute without checking that it exists. Until 5.23 is the oldest supported
    release. Typed dicts do not inherit the attribute, so every class needs the decorator.
    """
    kwargs_class._defaults = {}
    return kwargs_class


# --- Classes that only some releases have. ----------------------------------------------------------------------------


def class_of_transformers(name: str) -> Any:
    """The transformers class of this name (from a saved file); `None` if the installed release does not have it.

    This function stays, because new releases add classes that older ones do not have.
    """
    return getattr(transformers, name, None)


# --- SigLIP's pooling head. -------------------------------------------------------------------------------------------


def drop_pooling_head(vision_config: Any) -> None:
    """Configures a SigLIP tower without its pooling head.

    Up to 5.22, the model reads the field `vision_use_head`, which the configuration does not declare. So the field is
    set here, from outside. Until 5.23 is the oldest supported release.
    """
    vision_config.vision_use_head = False


# --- `add_adapter` of transformers 5.24 requires PEFT 0.22, which is not released yet, so no code calls it. -----------
# Until the oldest supported release of transformers requires a PEFT that is available.


def mark_adapter(model: PreTrainedModel, attached: bool) -> None:
    """Sets the flag that says whether an adapter is attached, as transformers' `add_adapter` does.

    The flag has no public name. transformers reads it for gradient checkpointing, for its check of quantized models
    before training, and in `save_pretrained`.
    """
    model._hf_peft_config_loaded = attached


# --- PyAV before 17.1 writes the audio of an MP4 file one frame late. -------------------------------------------------
# Until the oldest supported PyAV is 17.1.


def pyav_writes_sound_in_place() -> bool:
    """Whether audio in an MP4 file that PyAV writes begins at the time of its first sample."""
    try:
        import av
    except ImportError:
        return False
    return tuple(map(int, av.__version__.split(".")[:2])) >= (17, 1)


__all__ = [
    "CACHE_NAME",
    "CACHE_NAMES",
    "MASK_TYPES",
    "CacheNamesGenerationMixin",
    "CacheNamesOutput",
    "add_defaults",
    "cache_argument",
    "cache_of",
    "class_of_transformers",
    "disable_checkpointing",
    "drop_pooling_head",
    "enable_checkpointing",
    "forward_cache",
    "given_cache",
    "hold_gradients",
    "is_empty",
    "mark_adapter",
    "name_cache",
    "one_cache",
    "pyav_writes_sound_in_place",
    "rename_cache",
    "rename_checkpointing",
    "why_not_croppable",
]
