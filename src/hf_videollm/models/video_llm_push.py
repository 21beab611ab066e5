"""`push_to_hub` of models and processors: publishes a complete repository, or says how to get one.

That of transformers publishes what one object saves. The repository of a model would then have no processor, card or
licence, and visitors could not use it.
"""

from pkgutil import resolve_name
from typing import Any

# Where the package publishes objects. Code that was loaded from the Hub finds it only if the package is installed.
PUSH_MODEL = "hf_videollm.hub.push_objects:push_model"
PUSH_PROCESSOR = "hf_videollm.hub.push_objects:push_processor"


class ModelPushMixin:
    """`push_to_hub` of a model. In a list of base classes, it must come before `PreTrainedModel`."""

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


def _find(reference: str) -> Any:
    try:
        return resolve_name(reference)
    except ImportError as error:
        raise ValueError(
            "push_to_hub needs the package hf-videollm for a complete repository (processor, code, card, licence): pip "
            "install hf-videollm. Or save model and processor into one folder with save_pretrained, add a README.md "
            "with the licence, and publish the folder with huggingface_hub.upload_folder."
        ) from error


__all__ = ["ModelPushMixin", "ProcessorPushMixin"]
