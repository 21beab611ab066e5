"""Where a LinVT model comes from and how it is kept: around a trained image-LLM, whole, or without the image-LLM."""

import os
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils import cached_file

from .configuration_linvt import LinVTConfig, LinVTModuleConfig
from .linvt_backbones import EXAMPLES, check_backbone
from .linvt_module import LinVTModule
from .media_errors import CheckpointError

ADAPTER_PREFIX = "model.linvt."

if TYPE_CHECKING:
    from transformers import PreTrainedModel as Base
else:
    Base = object


class LinVTCheckpointMixin(Base):
    """To be put before the model with a head."""

    @classmethod
    def from_image_llm(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        linvt_config: LinVTModuleConfig | dict[str, Any] | None = None,
        image_token_id: int | None = None,
        video_token_id: int | None = None,
        num_frames: int = 16,
        **kwargs: Any,
    ) -> Self:
        """Put a new, untrained LinVT before a trained image-LLM, all of whose weights stay as they are.

        Args:
            pretrained_model_name_or_path: checkpoint that `AutoModelForImageTextToText` loads.
            linvt_config: the module; that of the paper if `None`.
            image_token_id: see `LinVTConfig`.
            video_token_id: see `LinVTConfig`.
            num_frames: see `LinVTConfig`.
            kwargs: options of `AutoModelForImageTextToText.from_pretrained`.

        Raises:
            ValueError: an image-LLM that LinVT cannot stand before, with the reason.
        """
        image_llm = _load_image_llm(pretrained_model_name_or_path, kwargs)
        base, head = getattr(image_llm, "model", None), image_llm.get_output_embeddings()
        has_bias = getattr(image_llm.config, "lm_head_bias", False)
        if not isinstance(base, nn.Module) or type(head) is not nn.Linear or (head.bias is not None) != has_bias:
            raise ValueError(
                f"{type(image_llm).__name__} is not a base model with a linear head without bias, as LinVT expects."
            )
        check_backbone(base)
        config = LinVTConfig(
            backbone_config=base.config,
            linvt_config=linvt_config,
            image_token_id=image_token_id,
            video_token_id=video_token_id,
            num_frames=num_frames,
            backbone_name=str(pretrained_model_name_or_path),
            backbone_revision=kwargs.get("revision"),
            tie_word_embeddings=head.weight is image_llm.get_input_embeddings().weight,
            dtype=image_llm.dtype,
        )
        # The weights exist already: on this device they take no room.
        with torch.device("meta"):
            model = cls(config)
        model.model.backbone, model.lm_head = base, head
        linvt = LinVTModule(config.get_text_config().hidden_size, config.linvt_config)
        linvt.apply(model._init_weights)
        model.model.linvt = linvt.to(device=head.weight.device, dtype=image_llm.dtype)
        model.generation_config = image_llm.generation_config
        return model.eval()

    @classmethod
    def from_adapter(
        cls, adapter: str | os.PathLike[str], image_llm: str | os.PathLike[str] | None = None, **kwargs: Any
    ) -> Self:
        """Load what `save_pretrained(adapter_only=True)` wrote, before the image-LLM that it was trained with.

        Args:
            adapter: folder or Hub id of the adapter.
            image_llm: path or Hub id of the image-LLM, if it is no longer where the adapter says.
            kwargs: options of `AutoModelForImageTextToText.from_pretrained`; those of the Hub also find the adapter.

        Raises:
            CheckpointError: the adapter names no image-LLM, or belongs to another one.
        """
        hub = {name: kwargs[name] for name in ("token", "cache_dir", "local_files_only") if name in kwargs}
        config = LinVTConfig.from_pretrained(adapter, **hub)
        source = image_llm or config.backbone_name
        if source is None:
            raise CheckpointError(f"{adapter} does not say which image-LLM it belongs to: pass image_llm.")
        if image_llm is None and config.backbone_revision is not None:
            kwargs.setdefault("revision", config.backbone_revision)
        tensors = load_file(str(cached_file(adapter, "model.safetensors", **hub)))
        model = cls.from_image_llm(
            source,
            linvt_config=config.linvt_config,
            image_token_id=config.image_token_id,
            video_token_id=config.video_token_id,
            num_frames=config.num_frames,
            **kwargs,
        )
        try:
            model.model.linvt.load_state_dict(
                {name.removeprefix(ADAPTER_PREFIX): tensor for name, tensor in tensors.items()}
            )
        except RuntimeError as error:
            raise CheckpointError(
                f"{adapter} is no LinVT alone, or not for {source}: load whole models with from_pretrained, and "
                "adapters with the image-LLM that they were saved with."
            ) from error
        return model

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, adapter_only: bool = False, **kwargs: Any
    ) -> None:
        """As in transformers.

        Args:
            adapter_only: write LinVT alone, for `from_adapter`, and the name of the image-LLM instead of its weights.

        Raises:
            ValueError: the image-LLM was not loaded from anywhere.
        """
        if adapter_only:
            if self.config.backbone_name is None:
                raise ValueError("An adapter needs its image-LLM: set config.backbone_name to its path or Hub id.")
            states = kwargs.get("state_dict") or self.state_dict()
            kwargs["state_dict"] = {name: value for name, value in states.items() if name.startswith(ADAPTER_PREFIX)}
        super().save_pretrained(save_directory, *args, **kwargs)


def _load_image_llm(source: str | os.PathLike[str], options: dict[str, Any]) -> Any:
    """An image-LLM with its head; what is none is named."""
    try:
        return AutoModelForImageTextToText.from_pretrained(source, **options)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        names = ("revision", "token", "cache_dir", "local_files_only")
        hub = {name: options[name] for name in names if name in options}
        config = AutoConfig.from_pretrained(source, **hub)
        raise ValueError(
            f"{source} is no image-LLM that AutoModelForImageTextToText loads ({type(config).__name__}, model_type "
            f"{config.model_type!r}): it has no get_image_features that LinVT could ask for the tokens of frames. Take "
            f"an image-LLM ({EXAMPLES})."
        ) from error


__all__ = ["ADAPTER_PREFIX", "LinVTCheckpointMixin"]
