"""Strict loading of checkpoints: weights that are missing, and would stay random, are an error.

This file also makes transformers copy the pipeline's file when it saves the code of a model with the model.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from safetensors import SafetensorError

from .errors import CheckpointError
from .video_llm_checkpoint_config import (
    IMPOSSIBLE,
    check_config_values,
    check_quantization,
    check_sizes,
    describe_impossible,
)
from .video_llm_checkpoint_files import (
    StoredHeader,
    check_headers,
    check_links,
    check_values,
    find_file,
    find_weight_files,
    read_checkpoint_json,
    refuse_other_numbers,
)

if TYPE_CHECKING:
    # This import has no effect at run time. When transformers saves a class as remote code, it copies all files that
    # the file of the class imports. Because of this line, each checkpoint contains the pipeline's file, also when it is
    # saved again after it was loaded as remote code.
    from .pipeline_video_text_to_text import VideoTextToTextPipeline  # noqa: F401


class CheckpointMixin:
    """Strict `from_pretrained`. In a list of base classes, it must come before `PreTrainedModel`."""

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
            strict: refuse missing and unexpected tensors, and tensors of a wrong shape. `strict=False` only warns, like
                transformers; use it to start a training from a part of a checkpoint.
            kwargs: options of transformers. The default of `trust_remote_code` is False, so that transformers does not
                ask the user whether it may run remote code.

        Raises:
            CheckpointError: a tensor is missing (it would stay random), does not belong to the model, or has a wrong
                shape; a file is damaged, is outside the checkpoint's folder, or is a pickle; no model can be built
                from the configuration; or a weight is NaN, infinite, or not a floating-point number.
        """
        # With `None`, transformers would ask the user on the terminal.
        kwargs["trust_remote_code"] = bool(kwargs.get("trust_remote_code"))
        wants_info = kwargs.pop("output_loading_info", False)
        # transformers would raise its own error for tensors of a wrong shape. With `ignore_mismatched_sizes`, it lists
        # them like missing tensors, so that one error of this package names both.
        ignore_mismatched = kwargs.pop("ignore_mismatched_sizes", False)
        unsure: list[StoredHeader] = []
        if pretrained_model_name_or_path is not None and kwargs.get("gguf_file") is None:
            kwargs.setdefault("use_safetensors", True)
            unsure = _check_checkpoint(cls, pretrained_model_name_or_path, args, kwargs, strict)
        try:
            with _without_report(strict):
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
        refuse_other_numbers(header for header in unsure if not _is_among(header.name, info["unexpected_keys"]))
        freeze_unused_parameters(model)
        return (model, info) if wants_info else model  # type: ignore[return-value]


@contextmanager
def _without_report(strict: bool) -> Iterator[None]:
    """With `strict`, hides the report of transformers about tensors that do not fit, as an error says the same.

    The report says that some of these tensors can be ignored, which contradicts the error.
    """

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    if strict:
        logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def freeze_unused_parameters(model: Any) -> None:
    """Freeze the parameters that never get a gradient, by calling `freeze_unused_parameters` of each module.

    Modules freeze these parameters when they are made. This is repeated here because `from_pretrained` and PEFT
    (`modules_to_save`) replace parameters by new ones, which are trainable.
    """
    for module in model.modules():
        if (freeze := getattr(type(module), "freeze_unused_parameters", None)) is not None:
            freeze(module)


def _check_checkpoint(
    model_class: Any, source: str | os.PathLike[str], args: tuple[Any, ...], options: dict[str, Any], strict: bool
) -> list[StoredHeader]:
    """Do all checks that need no memory for the weights.

    Returns:
        Headers of the tensors whose dtype the caller must check after loading; empty if all were checked here. Without
        `strict`, tensors that do not belong to the model may have any dtype, and only loading tells which these are.

    Raises:
        CheckpointError: see `CheckpointMixin.from_pretrained`.
    """
    if os.path.isdir(source):
        check_links(Path(source, options.get("subfolder") or ""))
    config = options.get("config")
    if isinstance(config, str | os.PathLike) or config is None:
        config = _read_config(model_class, source if config is None else config, options)
    if config is None:  # transformers raises an error that names the missing file
        return []
    if (named := getattr(config, "transformers_weights", None)) is not None:
        raise CheckpointError(
            f"{source}: config.json names weights of its own ({named!r:.100}): remove its field transformers_weights."
        )
    if (quantization := getattr(config, "quantization_config", None)) is not None:
        try:
            check_quantization(quantization)
        except ValueError as error:
            raise CheckpointError(f"{source}: {describe_impossible(error)}") from error
    # transformers silently replaces a damaged generation_config.json by the options of the model.
    if (generation_file := find_file(source, "generation_config.json", options)) is not None:
        read_checkpoint_json(generation_file)
    files, index = find_weight_files(source, options)
    is_quantized = getattr(config, "quantization_config", None) is not None
    headers = check_headers(files, index, is_quantized, check_dtypes=strict)
    check_sizes(lambda: model_class(config, *args), config, headers, source, is_quantized, strict)
    check_values(headers)
    return [] if strict or is_quantized else headers


def _is_among(name: str, keys: Iterable[str]) -> bool:
    """Whether `keys` contains a stored tensor. transformers writes names with or without the prefix of a submodule."""
    return any(name == key or name.endswith(f".{key}") or key.endswith(f".{name}") for key in keys)


def _read_config(model_class: Any, source: str | os.PathLike[str], options: dict[str, Any]) -> Any:
    """The configuration that transformers is going to use; `None` if there is no config.json."""
    if os.path.isfile(source):
        file = Path(source)
    elif (config_file := find_file(source, "config.json", options)) is not None:
        file = config_file
    else:
        return None
    content = read_checkpoint_json(file)
    try:
        check_config_values(content)
        config, _ = model_class.config_class.from_pretrained(
            source, return_unused_kwargs=True, **{name: value for name, value in options.items() if name != "config"}
        )
    except CheckpointError:
        raise
    except IMPOSSIBLE as error:
        raise CheckpointError(f"{source}: {describe_impossible(error)}") from error
    return config


def _refuse_partial_load(
    class_name: str, source: str | os.PathLike[str] | None, info: dict[str, Any], ignore_mismatched: bool
) -> None:
    mismatched = {str(entry[0]) for entry in info["mismatched_keys"]}
    problems = {
        "missing (they would stay random)": sorted(set(info["missing_keys"]) - mismatched),
        "not part of the model": sorted(info["unexpected_keys"]),
        "of another shape": [] if ignore_mismatched else sorted(map(_describe_mismatch, info["mismatched_keys"])),
    }
    lines = [f"{len(keys)} tensors are {what}: {_shorten(keys)}" for what, keys in problems.items() if keys]
    if lines:
        raise CheckpointError(
            f"{source} does not fit {class_name}: {'; '.join(lines)}. Load it with the class named in its config.json, "
            "convert official checkpoints with `hf-videollm convert`, or pass strict=False to start from what fits."
        )


def _describe_mismatch(entry: tuple[str, Any, Any]) -> str:
    name, stored, expected = entry[0], tuple(entry[1]), tuple(entry[2])
    return f"{name} {stored} instead of {expected}"


def _shorten(keys: list[str], limit: int = 4) -> str:
    return ", ".join(keys[:limit]) + (f" and {len(keys) - limit} more" if len(keys) > limit else "")


__all__ = ["CheckpointMixin", "freeze_unused_parameters"]
