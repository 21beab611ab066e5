"""Loading that never leaves a weight at its random initialisation, and saving that takes the pipeline along."""

import os
from typing import TYPE_CHECKING, Any, Self

from safetensors import SafetensorError

from .media_errors import CheckpointError

if TYPE_CHECKING:
    # Not needed to run: transformers copies what a saved class's files import, and so the pipeline travels with
    # every checkpoint, also with one that is saved again after it was loaded as remote code.
    from .pipeline_video_text_to_text import VideoTextToTextPipeline  # noqa: F401


class CheckpointMixin:
    """Strict `from_pretrained`, to be put before `PreTrainedModel`."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *args: Any,
        strict: bool = True,
        **kwargs: Any,
    ) -> Self:
        """As in transformers, but a checkpoint that does not fit the model is an error instead of a warning.

        Args:
            strict: refuse missing, unexpected and mis-shaped tensors. `strict=False` gives transformers' behaviour,
                for starting a training from part of a checkpoint.

        Raises:
            CheckpointError: a tensor is missing (it would stay random), is left over, or has another shape; a weight
                file is damaged.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        # Mis-shaped tensors are collected like missing ones, so that one error names them all.
        ignore_mismatched = kwargs.pop("ignore_mismatched_sizes", False)
        try:
            model, info = super().from_pretrained(  # type: ignore[misc]
                pretrained_model_name_or_path,
                *args,
                output_loading_info=True,
                ignore_mismatched_sizes=ignore_mismatched or strict,
                **kwargs,
            )
        except SafetensorError as error:
            raise CheckpointError(
                f"{pretrained_model_name_or_path}: a weight file is truncated or damaged ({error}); download or save "
                "the checkpoint again."
            ) from error
        if strict:
            _refuse_partial_load(cls.__name__, pretrained_model_name_or_path, info, ignore_mismatched)
        freeze_unused_parameters(model)
        return (model, info) if wants_info else model  # type: ignore[return-value]


def freeze_unused_parameters(model: Any) -> None:
    """Freeze what no loss can reach, in every part of a model that knows such parameters of itself.

    Done when a model is made; new parameters, of `from_pretrained` or of PEFT (`modules_to_save`), are trainable again.
    """
    for module in model.modules():
        if (freeze := getattr(type(module), "freeze_unused_parameters", None)) is not None:
            freeze(module)


def _refuse_partial_load(
    class_name: str, source: str | os.PathLike[str] | None, info: dict[str, Any], ignore_mismatched: bool
) -> None:
    mismatched = {str(entry[0]) for entry in info["mismatched_keys"]}
    problems = {
        "missing (they would stay random)": sorted(set(info["missing_keys"]) - mismatched),
        "not part of the model": sorted(info["unexpected_keys"]),
        "of another shape": [] if ignore_mismatched else sorted(map(_describe_mismatch, info["mismatched_keys"])),
    }
    found = [f"{len(keys)} tensors are {what}: {_shorten(keys)}" for what, keys in problems.items() if keys]
    if found:
        raise CheckpointError(
            f"{source} does not fit {class_name}: {'; '.join(found)}. Load it with the class named in its config.json, "
            "convert official checkpoints with `hf-videollm convert`, or pass strict=False to start from what fits."
        )


def _describe_mismatch(entry: tuple[str, Any, Any]) -> str:
    name, found, expected = entry[0], tuple(entry[1]), tuple(entry[2])
    return f"{name} {found} instead of {expected}"


def _shorten(keys: list[str], limit: int = 4) -> str:
    return ", ".join(keys[:limit]) + (f" and {len(keys) - limit} more" if len(keys) > limit else "")


__all__ = ["CheckpointMixin", "freeze_unused_parameters"]
