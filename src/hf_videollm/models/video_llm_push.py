"""`push_to_hub` of models and processors: publishes a complete repository, or says how to get one.

That of transformers publishes what one object saves. The repository of a model would then have no processor, card or
licence, and visitors could not use it. `save_pretrained(..., push_to_hub=True)` does the same as `push_to_hub`.
"""

import os
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

# Where the package publishes objects. Code that was loaded from the Hub finds it only if the package is installed.
PUSH_MODEL = "hf_videollm.hub.push_objects:push_model"
PUSH_PROCESSOR = "hf_videollm.hub.push_objects:push_processor"
# The positional arguments of transformers' `save_pretrained` after the folder.
SAVE_ARGUMENTS = ("is_main_process", "state_dict", "push_to_hub", "max_shard_size")
# Options of `push_to_hub` that `save_pretrained` takes, too. `token` is one of both.
PUSH_OPTIONS = (
    "commit_message",
    "commit_description",
    "private",
    "revision",
    "create_pr",
    "tags",
    "processor",
    "variants",
    "licence",
    "licence_name",
    "licence_link",
    "licence_override",
    "base_models",
)


class ModelPushMixin:
    """`push_to_hub` of a model. In a list of base classes, it must come before `PreTrainedModel`."""

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Save as transformers does; with `push_to_hub=True`, also publish what `push_to_hub` publishes.

        Args:
            save_directory: folder to write.
            args: as in transformers: `is_main_process`, `state_dict`, `push_to_hub`, `max_shard_size`.
            kwargs: as in transformers; with `push_to_hub=True` also `repo_id`, which is the name of the folder by
                default, and the options of `push_to_hub`.
        """
        kwargs.update(zip(SAVE_ARGUMENTS, args, strict=False))
        if kwargs.pop("push_to_hub", False):
            return save_and_push(self, save_directory, kwargs)
        return super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]

    def push_to_hub(self, repo_id: str, *, processor: Any = None, **options: Any) -> str:
        """Publish this model as a complete repository on the Hub, in one commit.

        Args:
            repo_id: name of the repository, `OWNER/NAME` or `NAME`.
            processor: its processor; by default that of the checkpoint which the model was loaded from.
            options: `commit_message`, `commit_description`, `private`, `token`, `revision`, `max_shard_size` and `tags`
                as in transformers; and options of `hf_videollm.hub.push.push`, such as `licence`, `base_models` or
                `variants`.

        Returns:
            The address of the commit.

        Raises:
            ValueError: the repository would not be complete, a part of it must not be published, or the package
                hf-videollm is not installed; or the Hub refused (`PushError`).
            TypeError: an option is unknown.
        """
        return str(_find(PUSH_MODEL)(self, processor, repo_id, **options))


class ProcessorPushMixin:
    """`push_to_hub` of a processor. In a list of base classes, it must come before `ProcessorMixin`."""

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Save as transformers does; with `push_to_hub=True`, also check what `push_to_hub` checks.

        Args:
            save_directory: folder to write.
            push_to_hub: check that the repository has this processor.
            kwargs: as in transformers; with `push_to_hub=True` also `repo_id`, which is the name of the folder by
                default, and the options of `push_to_hub`.
        """
        if push_to_hub:
            return save_and_push(self, save_directory, kwargs)
        return super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Check that a repository of the Hub has this processor. It is published together with its model.

        Args:
            repo_id: name of the repository, to which the model was pushed before.
            options: `token` and `revision` as in transformers. `commit_message` and `private` change nothing, because
                the commit of the model has both already.

        Returns:
            The address of the repository.

        Raises:
            ValueError: there is no model in the repository, or it was pushed with another processor; the message says
                how to push both. Or the package hf-videollm is not installed.
            TypeError: an option is unknown.
        """
        return str(_find(PUSH_PROCESSOR)(self, repo_id, **options))


def save_and_push(saved: Any, folder: str | os.PathLike[str], options: dict[str, Any]) -> Any:
    """Save a model or processor, and push it afterwards. Of several processes, the main one pushes.

    Args:
        saved: the model or processor.
        folder: folder to write.
        options: of `save_pretrained` without `push_to_hub`, and of the method `push_to_hub`.

    Returns:
        What `save_pretrained` returns.
    """
    repo_id = options.pop("repo_id", None) or Path(folder).absolute().name
    chosen = {name: options.pop(name) for name in PUSH_OPTIONS if name in options}
    shared = {name: options[name] for name in ("token", "max_shard_size") if name in options}
    # Asked before anything is written: without the package, nothing can be pushed.
    _find(PUSH_MODEL)
    result = saved.save_pretrained(folder, **options)
    if options.get("is_main_process", True):
        saved.push_to_hub(repo_id, **chosen, **shared)
    return result


def _find(reference: str) -> Any:
    try:
        return resolve_name(reference)
    except ImportError as error:
        raise ValueError(
            "push_to_hub needs the package hf-videollm for a complete repository (processor, code, card, licence): pip "
            "install hf-videollm. Or save model and processor into one folder with save_pretrained, add a README.md "
            "with the licence, and publish the folder with huggingface_hub.upload_folder."
        ) from error


__all__ = ["SAVE_ARGUMENTS", "ModelPushMixin", "ProcessorPushMixin", "save_and_push"]
