"""How a LinVT model is made from a trained image-LLM, and how it is saved and loaded without the image-LLM.

A checkpoint of LinVT without the image-LLM is called an adapter. It names the image-LLM that it belongs to.
"""

import copy
import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from .configuration_linvt import LinVTConfig, LinVTModuleConfig, check_module_options
from .errors import CheckpointError
from .linvt_backbones import Backbone
from .linvt_families import EXAMPLES
from .linvt_module import LinVTModule
from .video_llm_checkpoint import freeze_unused_parameters
from .video_llm_checkpoint_files import (
    check_headers,
    check_links,
    check_values,
    find_file,
    find_weight_files,
    read_checkpoint_json,
)
from .video_llm_quantization import adopt_quantization, leave_out, modules_beside, without_quantizer

ADAPTER_PREFIX = "model.linvt."
ADAPTER_FILE = "model.safetensors"
# Options of `from_pretrained` that say how to reach the Hub, whatever is loaded from it.
CONNECTION_OPTIONS = ("token", "cache_dir", "local_files_only")
# If these fields or the model types of two image-LLMs differ, an adapter of one does not fit the other.
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")

if TYPE_CHECKING:
    from transformers import PreTrainedModel as Base
else:
    Base = object


class AdapterRefusalMixin(Base):
    """For every class that loads whole models. List it before `PreTrainedModel` among the base classes."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Self:
        """As in transformers.

        Raises:
            CheckpointError: as in `CheckpointMixin.from_pretrained`; also if the checkpoint is an adapter, which
                `from_adapter` loads.
        """
        if pretrained_model_name_or_path is not None and kwargs.get("strict", True):
            refuse_adapter(pretrained_model_name_or_path, **hub_options(kwargs, "revision", "subfolder"))
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)


class LinVTCheckpointMixin(Base):
    """For the model with a head. List it before `PreTrainedModel` among the base classes."""

    @classmethod
    def from_image_llm(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        linvt_config: LinVTModuleConfig | dict[str, Any] | None = None,
        image_token_id: int | None = None,
        video_token_id: int | None = None,
        num_frames: int = 16,
        vision_chunk_size: int | None = None,
        mix_deepstack: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load a trained image-LLM and add a new, untrained LinVT to it. The weights of the image-LLM do not change.

        Args:
            pretrained_model_name_or_path: checkpoint that `AutoModelForImageTextToText` loads.
            linvt_config: configuration of LinVT; the paper's configuration if `None`.
            image_token_id: see `LinVTConfig`.
            video_token_id: see `LinVTConfig`.
            num_frames: see `LinVTConfig`.
            vision_chunk_size: see `LinVTConfig`.
            mix_deepstack: see `LinVTConfig`.
            kwargs: options of `AutoModelForImageTextToText.from_pretrained`. A `quantization_config` quantizes the
                language model alone, as in `from_pretrained`.

        Raises:
            ValueError: LinVT does not support the image-LLM (the message gives the reason), or an option is unknown.
        """
        check_module_options(linvt_config)
        attention = kwargs.get("attn_implementation")
        image_llm = _load_image_llm(pretrained_model_name_or_path, kwargs)
        return cls.around_image_llm(
            image_llm,
            linvt_config=linvt_config,
            image_token_id=image_token_id,
            video_token_id=video_token_id,
            num_frames=num_frames,
            vision_chunk_size=vision_chunk_size,
            mix_deepstack=mix_deepstack,
            backbone_name=_absolute(pretrained_model_name_or_path),
            # Store the commit if it is known, because the branch may have other contents later.
            backbone_revision=getattr(image_llm.config, "_commit_hash", None) or kwargs.get("revision"),
            attn_implementation=attention.get("") if isinstance(attention, Mapping) else attention,
        )

    @classmethod
    def around_image_llm(cls, image_llm: Any, **options: Any) -> Self:
        """Add a new, untrained LinVT to an image-LLM that is in memory. The new model shares the image-LLM's weights.

        Args:
            image_llm: a model of transformers with its head.
            options: fields of `LinVTConfig`.

        Raises:
            ValueError: LinVT does not support the image-LLM (the message gives the reason), or an option is unknown.
        """
        check_module_options(options.get("linvt_config"))
        base, head = getattr(image_llm, "model", None), image_llm.get_output_embeddings()
        has_bias = getattr(image_llm.config, "lm_head_bias", False)
        if not isinstance(base, nn.Module) or type(head) is not nn.Linear or (head.bias is not None) != has_bias:
            raise ValueError(
                f"{type(image_llm).__name__} is not a base model with a linear head without bias, as LinVT expects."
            )
        Backbone(base).check()
        config = LinVTConfig(
            backbone_config=base.config,
            tie_word_embeddings=head.weight is image_llm.get_input_embeddings().weight,
            dtype=image_llm.dtype,
            **options,
        )
        # The image-LLM already has its weights, so the new model is created on the meta device, which allocates none.
        with torch.device("meta"):
            model = cls(config)
        model.config.backbone_config = base.config
        model.model.backbone, model.lm_head = base, head
        linvt = LinVTModule(config.get_text_config().hidden_size, config.linvt_config)
        linvt.apply(model._init_weights)
        model.model.linvt = linvt.to(device=head.weight.device, dtype=image_llm.dtype)
        model.generation_config = copy.deepcopy(image_llm.generation_config)
        freeze_unused_parameters(model)
        adopt_quantization(model, image_llm, "backbone", ("linvt",))
        return model.eval()

    @classmethod
    def from_adapter(
        cls, adapter: str | os.PathLike[str], image_llm: str | os.PathLike[str] | None = None, **kwargs: Any
    ) -> Self:
        """Load an adapter, which `save_pretrained(adapter_only=True)` wrote, and the image-LLM that it belongs to.

        Args:
            adapter: folder or Hub id of the adapter.
            image_llm: path or Hub id of the image-LLM; if `None`, the one that the adapter names.
            kwargs: options of `AutoModelForImageTextToText.from_pretrained`. The options `token`, `cache_dir` and
                `local_files_only` also apply to the adapter.

        Raises:
            CheckpointError: the adapter names no image-LLM; the image-LLM is not found; or the adapter belongs to
                another image-LLM.
        """
        hub = hub_options(kwargs)
        config = _read_adapter_config(adapter, hub)
        source = image_llm or config.backbone_name
        if source is None:
            raise CheckpointError(f"{adapter} does not say which image-LLM it belongs to: pass image_llm.")
        if image_llm is None and config.backbone_revision is not None:
            kwargs.setdefault("revision", config.backbone_revision)
        file = find_weight_files(adapter, hub)[0][0]
        check_values(check_headers([file], None))
        tensors = load_file(str(file))
        _check_image_llm(adapter, config.backbone_config, source, hub_options(kwargs, "revision", "trust_remote_code"))
        model = cls.from_image_llm(
            source,
            linvt_config=config.linvt_config,
            image_token_id=config.image_token_id,
            video_token_id=config.video_token_id,
            num_frames=config.num_frames,
            vision_chunk_size=config.vision_chunk_size,
            mix_deepstack=config.mix_deepstack,
            **kwargs,
        )
        try:
            model.model.linvt.load_state_dict(
                {name.removeprefix(ADAPTER_PREFIX): tensor for name, tensor in tensors.items()}
            )
        except RuntimeError as error:
            raise CheckpointError(
                f"{adapter} is not a LinVT adapter, or is one for another image-LLM than {source}: load whole models "
                "with from_pretrained, and adapters with the image-LLM that they were saved with."
            ) from error
        return model

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, adapter_only: bool = False, **kwargs: Any
    ) -> None:
        """As in transformers.

        Args:
            adapter_only: write an adapter, which holds the weights of LinVT in one file and the name of the image-LLM.
                If PEFT trains a copy of LinVT (`modules_to_save`), the weights of that trained copy are written.

        Raises:
            ValueError: the name of the image-LLM is not known; an adapter is to be pushed to the Hub; or PEFT has added
                weights to LinVT, such as LoRA's.
        """
        if adapter_only:
            if kwargs.get("push_to_hub") or any(args[2:3]):
                raise ValueError(
                    "An adapter alone is no complete repository: leave out adapter_only, and the whole model is pushed."
                )
            if self.config.backbone_name is None:
                raise ValueError("An adapter must name its image-LLM: set config.backbone_name to its path or Hub id.")
            self.config.backbone_name = _absolute(self.config.backbone_name)
            kwargs["state_dict"] = self._adapter_states(kwargs.get("state_dict") or self.state_dict())
            kwargs["max_shard_size"] = "1000GB"
        with without_quantizer(self) if adapter_only else nullcontext():
            super().save_pretrained(save_directory, *args, **kwargs)

    def _adapter_states(self, states: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights of LinVT. PEFT's additions to the names of the weights are removed."""
        with torch.device("meta"):
            plain = LinVTModule(self.config.get_text_config().hidden_size, self.config.linvt_config).state_dict()
        prefix = ADAPTER_PREFIX
        trained = {name.split(".")[3] for name in states if name.startswith(f"{ADAPTER_PREFIX}modules_to_save.")}
        if len(trained) > 1:
            raise ValueError(
                f"PEFT keeps several trained copies of LinVT, {sorted(trained)}: merge the one to be saved "
                "(merge_and_unload)."
            )
        if trained:
            prefix = f"{ADAPTER_PREFIX}modules_to_save.{trained.pop()}."
        own = {name.removeprefix(prefix): value for name, value in states.items() if name.startswith(prefix)}
        if own.keys() != plain.keys():
            raise ValueError(
                f"The weights under LinVT's name are not just those of LinVT ({min(own.keys() ^ plain.keys())}): merge "
                "what PEFT added to LinVT (merge_and_unload) before you save an adapter."
            )
        return {f"{ADAPTER_PREFIX}{name}": value for name, value in own.items()}


def refuse_adapter(source: str | os.PathLike[str], **options: Any) -> None:
    """Refuse an adapter where a whole model is loaded.

    Args:
        source: folder or Hub id.
        options: the options of the Hub, as `hub_options` returns them.

    Raises:
        CheckpointError: the checkpoint is an adapter. The message names the method that loads it.
    """
    try:
        file = find_file(source, ADAPTER_FILE, options)
        with safe_open(str(file), "pt") as tensors:
            is_adapter = all(name.startswith(ADAPTER_PREFIX) for name in tensors.keys())  # noqa: SIM118
    except (OSError, ValueError, SafetensorError):
        # The file is missing or cannot be read. The caller goes on to load the whole model, which reports the fault.
        return
    if is_adapter:
        raise CheckpointError(
            f"{source} is a LinVT adapter, without its image-LLM: load it with LinVTForCausalLM.from_adapter. If you "
            "need a whole model, save the loaded one with save_checkpoint."
        )


def _read_adapter_config(adapter: str | os.PathLike[str], hub: dict[str, Any]) -> LinVTConfig:
    """Read the configuration of an adapter, and check the path or Hub id of the image-LLM in it.

    Raises:
        CheckpointError: a link in the adapter's folder points outside that folder; the configuration is invalid; an
            adapter from the Hub names an absolute path; or a path contains `..`.
    """
    if os.path.isdir(adapter):
        check_links(Path(adapter))
    if (file := find_file(adapter, "config.json", hub)) is not None:
        read_checkpoint_json(file)
    config = LinVTConfig.from_pretrained(adapter, **hub)
    name = config.backbone_name
    if name is not None and (".." in Path(name).parts or (os.path.isabs(name) and not os.path.isdir(adapter))):
        raise CheckpointError(
            f"{adapter} names its image-LLM by the path {name!r}, which may lead to any folder of this machine: pass "
            "image_llm= with the one that you mean."
        )
    return config


def hub_options(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Choose the options of `from_pretrained` that decide how a file is found on the Hub or in the local cache.

    Args:
        options: options of a call of `from_pretrained`.
        names: further names to keep, such as `"revision"`. It is not always kept, because the revision of an image-LLM
            is not the revision of its adapter.

    Returns:
        The options of the call whose names are in `CONNECTION_OPTIONS` or in `names`.
    """
    return {name: options[name] for name in (*CONNECTION_OPTIONS, *names) if name in options}


def _absolute(source: str | os.PathLike[str]) -> str:
    """The absolute path of a folder; a Hub id unchanged."""
    return os.path.abspath(source) if os.path.isdir(source) else os.fspath(source)


def _check_image_llm(
    adapter: str | os.PathLike[str], expected: Any, source: str | os.PathLike[str], options: dict[str, Any]
) -> None:
    """Refuse an image-LLM that is not found, or that differs from the one that the adapter was trained with.

    Two different image-LLMs can have equal widths. The weights of LinVT would then load without an error.

    Raises:
        CheckpointError: the message names what differs.
    """
    try:
        options["trust_remote_code"] = bool(options.get("trust_remote_code"))
        actual = AutoConfig.from_pretrained(source, **options)
    except OSError as error:
        raise CheckpointError(
            f"{adapter} belongs to the image-LLM {source}, which cannot be found: pass image_llm= with its path or "
            f"Hub id. ({str(error).strip().splitlines()[0]})"
        ) from error
    facts = [("model_type", expected.model_type, actual.model_type)]
    texts = expected.get_text_config(), actual.get_text_config()
    towers = getattr(expected, "vision_config", None), getattr(actual, "vision_config", None)
    for part, (expected_part, actual_part) in (("language model", texts), ("vision tower", towers)):
        for name in ("model_type", *SIZES):
            values = getattr(expected_part, name, None), getattr(actual_part, name, None)
            facts.append((f"{name} of the {part}", *values))
    for name, wanted, value in facts:
        if wanted != value:
            raise CheckpointError(
                f"{adapter} belongs to another image-LLM than {source}, whose {name} is {value}, not {wanted}: pass "
                "image_llm= with the one that it was saved with."
            )


def _load_image_llm(source: str | os.PathLike[str], options: dict[str, Any]) -> Any:
    """Load an image-LLM with its head.

    Raises:
        CheckpointError: a weight is missing or invalid.
        ValueError: the checkpoint is not an image-LLM. The message names its class.
    """
    options["trust_remote_code"] = bool(options.get("trust_remote_code"))
    options.setdefault("use_safetensors", True)
    if os.path.isdir(source):
        check_links(Path(source))
    if (file := find_file(source, "config.json", options)) is not None:
        is_quantized = "quantization_config" in read_checkpoint_json(file)
        check_values(check_headers(*find_weight_files(source, options), is_quantized))
    try:
        if options.get("quantization_config") is not None:
            options = {**options, "quantization_config": _language_model_alone(source, options)}
        model, info = AutoModelForImageTextToText.from_pretrained(source, **{**options, "output_loading_info": True})
        if missing := sorted(info["missing_keys"]):
            raise CheckpointError(
                f"{source} lacks {len(missing)} weights of {type(model).__name__}, which would stay random "
                f"({missing[0]}): download or save the image-LLM again."
            )
        return model
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        config = AutoConfig.from_pretrained(source, **hub_options(options, "revision", "trust_remote_code"))
        raise ValueError(
            f"{source} is no image-LLM that AutoModelForImageTextToText loads ({type(config).__name__}, model_type "
            f"{config.model_type!r}): it has no get_image_features that LinVT could ask for the tokens of frames. Take "
            f"an image-LLM ({EXAMPLES})."
        ) from error


def _language_model_alone(source: str | os.PathLike[str], options: dict[str, Any]) -> Any:
    """A changed copy of `options["quantization_config"]`, which quantizes only the language model."""
    trust = {name: options[name] for name in ("trust_remote_code",) if name in options}
    config = options.get("config") or AutoConfig.from_pretrained(source, **hub_options(options, "revision"), **trust)
    if getattr(config, "quantization_config", None):
        return options["quantization_config"]
    with torch.device("meta"):
        image_llm = AutoModelForImageTextToText.from_config(config, **trust)
    return leave_out(options["quantization_config"], list(modules_beside(image_llm, image_llm.get_decoder())))


__all__ = ["ADAPTER_PREFIX", "AdapterRefusalMixin", "LinVTCheckpointMixin", "refuse_adapter"]
