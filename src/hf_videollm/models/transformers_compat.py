"""All differences between the releases of libraries that this package runs on, and nothing else.

Most are those of transformers, 5.20 to 5.24.

No other file asks which release is installed, or does something for one release alone. Each entry says with which
oldest supported release it can go. It asks for what a release has, not for its number, so that later releases are
treated as the one that first had it.
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
# Until 5.24 is the oldest supported release. What lets callers use the old name (the argument `past_key_values` of our
# own `forward` and `generate`, the attribute of our outputs) stays for as long as transformers' own does: up to 6.0.

# What outputs of transformers call it, and what `generate` calls it among the inputs of a model.
CACHE_NAME = "cache" if "cache" in {field.name for field in fields(BaseModelOutputWithPast)} else "past_key_values"
CACHE_NAMES = ("cache", "past_key_values")
OTHER_CACHE_NAME = "past_key_values" if CACHE_NAME == "cache" else "cache"


def one_cache(cache: Any, past_key_values: Any) -> Any:
    """The cache that came under one of its two names.

    Raises:
        ValueError: two different ones came.
    """
    if cache is not None and past_key_values is not None and cache is not past_key_values:
        raise ValueError("cache and past_key_values are two names of the same: pass one of them.")
    return past_key_values if cache is None else cache


def forward_cache(cache: Any, past_key_values: Any) -> Any:
    """The cache that a forward was given under one of its two names.

    From 5.24 on, models of transformers warn of the old name, which they take up to 5.40. Ours take it for longer, as
    it is the only name on older releases: those who ask Python for announcements of this kind hear of the new one.

    Raises:
        ValueError: two different ones came.
    """
    if CACHE_NAME == "cache" and past_key_values is not None and not torch.compiler.is_compiling():
        message = "`past_key_values` is deprecated in transformers: `cache` is its name from transformers 5.24 on."
        warnings.warn(message, PendingDeprecationWarning, stacklevel=2)
    return one_cache(cache, past_key_values)


def given_cache(arguments: dict[str, Any]) -> Any:
    """The cache among the arguments of a call, under either name; `None` without one."""
    return one_cache(arguments.get("cache"), arguments.get("past_key_values"))


def rename_cache(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a call, the cache under the name of the installed release."""
    if OTHER_CACHE_NAME not in arguments:
        return arguments
    others = {name: value for name, value in arguments.items() if name not in CACHE_NAMES}
    return {**others, CACHE_NAME: given_cache(arguments)}


def cache_argument(module: torch.nn.Module) -> str:
    """What the forward of a model calls its cache; code that comes with a checkpoint may keep the old name.

    To be asked once, when a model is made: compiled code cannot.
    """
    accepted = inspect.signature(type(module).forward).parameters
    return next((name for name in CACHE_NAMES if name in accepted), CACHE_NAME)


def cache_of(output: Any) -> Any:
    """The cache of an output of transformers; `None` without one."""
    return getattr(output, CACHE_NAME, None)


def name_cache(output: Any) -> Any:
    """The same output of transformers, its cache readable as the attribute `cache` on every release."""
    if CACHE_NAME != "cache" and hasattr(output, CACHE_NAME):
        output.cache = cache_of(output)
    return output


if CACHE_NAME == "cache":

    class CacheNamesOutput:
        """To be put before an output class of transformers: its cache has both names as attributes."""

        @property
        def past_key_values(self) -> Any:
            """Without the notice that transformers prints for its own."""
            return cache_of(self)

else:

    class CacheNamesOutput:  # type: ignore[no-redef]
        """To be put before an output class of transformers: its cache has both names as attributes."""

        @property
        def cache(self) -> Any:
            """The name from 5.24 on."""
            return cache_of(self)


class CacheNamesGenerationMixin(GenerationMixin):
    """`generate`, and the steps that transformers and others call in it, with the cache under either name.

    Up to 5.23, `generate` would take `cache` for an input of the model, and make a second cache beside it. From 5.24
    on, it warns of the old name.
    """

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; a cache may come as `cache` or `past_key_values`."""
        return name_cache(super().generate(*args, **rename_cache(kwargs)))

    # `generate` asks whether `inputs_embeds` is among the arguments.
    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As in transformers; a cache may come as `cache` or `past_key_values`."""
        renamed = rename_cache(kwargs)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, **renamed
        )
        return inputs


# --- Token types reach a model's own `create_masks_for_generate` under one name alone up to 5.22. ---------------------
# Until 5.23 is the oldest supported release, which also hands on `mm_token_type_ids`.
MASK_TYPES = "token_type_ids"


# --- Caches that cannot be cut. ---------------------------------------------------------------------------------------
# Stays, but for the branch of quantized caches: until 5.24 is the oldest supported release.


def why_not_croppable(cache: Any) -> str | None:
    """Which layers of a cache `crop` would not bring back to how they were; `None` if it may be tried.

    Nothing is changed: a cut that fails half-way would leave some layers cut.
    """
    layers = getattr(cache, "layers", None) or [cache]
    if not getattr(cache, "is_croppable", True):
        wrong = [layer for layer in layers if not getattr(layer, "is_croppable", False)] or layers
    elif isinstance(cache, QuantizedCache):
        # Up to 5.23, these say that they can be cut, and lose count of what is quantized.
        wrong = layers
    else:
        wrong = [layer for layer in layers if _has_forgotten(layer) or not hasattr(layer, "crop")]
    return ", ".join(sorted({type(layer).__name__ for layer in wrong})) or None


def _has_forgotten(layer: Any) -> bool:
    """Whether a layer says that it can be cut, but has dropped what is before its window."""
    window = getattr(layer, "sliding_window", None) if getattr(layer, "is_sliding", False) else None
    return window is not None and not getattr(layer, "record_past", False) and layer.get_seq_length() >= window


# --- Layers that are recomputed for gradient checkpointing run their hooks again up to 5.22. --------------------------
# Until 5.23 is the oldest supported release.


class _HeldGradients(torch.autograd.Function):
    """The embeddings unchanged; in the backward pass, what `replay_frames` took up goes on to the frames."""

    @staticmethod
    def forward(ctx: Any, inputs_embeds: torch.Tensor, context: Any, *features: torch.Tensor) -> Any:
        ctx.context = context
        ctx.num_features = len(features)
        return inputs_embeds.view_as(inputs_embeds)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        held = ctx.context.replay_frames
        found = [None] * ctx.num_features if held is None else [tensor.grad for tensor in held.features]
        ctx.context.replay_frames = None
        return gradients[0], None, *found


def hold_gradients(inputs_embeds: torch.Tensor, context: Any) -> torch.Tensor:
    """Prepare for releases that recompute a checkpointed layer of IVA's language model together with its hooks.

    In the reentrant way, every layer then has a backward pass of its own. It would go on through the frames into the
    vision tower, which only one of them can. So these passes end at a copy of the frames that takes up their
    gradients, and the embeddings, the last to get theirs, hand them on. Where nothing is recomputed so, or the vision
    tower is frozen, this changes nothing.

    Args:
        inputs_embeds: `(batch, length, width)`.
        context: an `AdapterContext` of `iva_hooks`.
    """
    if not context.frames.requires_grad or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return inputs_embeds
    held: torch.Tensor = _HeldGradients.apply(inputs_embeds, context, *context.frames.features)
    return held


# --- Activations computed again in the backward pass: "gradient checkpointing" up to 5.22, "activation" since. --------
# Until 5.23 is the oldest supported release.

_CHECKPOINTING = "activation" if hasattr(PreTrainedModel, "activation_checkpointing_enable") else "gradient"


def rename_checkpointing(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `TrainingArguments` under the names of the installed release; either name may come."""
    pattern = re.compile(r"^(activation|gradient)(?=_checkpointing(_kwargs)?$)")
    return {pattern.sub(_CHECKPOINTING, name): value for name, value in arguments.items()}


def enable_checkpointing(model: PreTrainedModel, options: dict[str, Any] | None = None) -> None:
    """Trade computation for memory in training; `options` are those of `torch.utils.checkpoint.checkpoint`."""
    getattr(model, f"{_CHECKPOINTING}_checkpointing_enable")(options)


def disable_checkpointing(model: PreTrainedModel) -> None:
    """Take `enable_checkpointing` back."""
    getattr(model, f"{_CHECKPOINTING}_checkpointing_disable")()


# --- Processors. ------------------------------------------------------------------------------------------------------


def add_defaults(kwargs_class: Any) -> Any:
    """Class decorator of keyword arguments of a processor: no defaults, which up to 5.22 are read unasked.

    Until 5.23 is the oldest supported release. A typed dict inherits no such attribute, so each class needs it.
    """
    kwargs_class._defaults = {}
    return kwargs_class


# --- Classes that only some releases have. ----------------------------------------------------------------------------


def class_of_transformers(name: str) -> Any:
    """A class by its name in a saved file; `None` if the installed release has none. Stays: new families will come."""
    return getattr(transformers, name, None)


# --- SigLIP's pooling head. -------------------------------------------------------------------------------------------


def drop_pooling_head(vision_config: Any) -> None:
    """Tell a SigLIP tower to have no pooling head; up to 5.22 the field is not declared, but read all the same.

    Until 5.23 is the oldest supported release.
    """
    vision_config.vision_use_head = False


# --- `add_adapter` refuses a PEFT that is older than the release names (5.24: 0.22, which is not out). ---------------
# Until the oldest supported release asks for a PEFT that all supported environments have.


def mark_adapter(model: PreTrainedModel, attached: bool) -> None:
    """Say whether an adapter is attached, as transformers' `add_adapter` does.

    The flag has no public name. Gradient checkpointing, the check of quantized models before training and
    `save_pretrained` read it.
    """
    model._hf_peft_config_loaded = attached


# --- PyAV writes the sound of an MP4 file a frame late before 17.1. ---------------------------------------------------
# Until the oldest supported PyAV is 17.1.


def pyav_writes_sound_in_place() -> bool:
    """Whether sound that PyAV writes begins where its first sample says."""
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
    "mark_adapter",
    "name_cache",
    "one_cache",
    "pyav_writes_sound_in_place",
    "rename_cache",
    "rename_checkpointing",
    "why_not_croppable",
]
