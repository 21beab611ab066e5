"""LoRA whose strength can be changed after training (PLLaVA paper, section 3.4: post-training optimisation).

h = W0 x + (alpha / r) B A x. The adapter is kept apart from the weights, in the `lora/` folder of the checkpoint, as a
PEFT adapter that PEFT itself can read; `alpha` is a choice made at load time.
"""

import os
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import cached_file

from .media_errors import CheckpointError

try:
    from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
    from peft.tuners.lora import LoraLayer
except ImportError:  # a checkpoint without an adapter needs no PEFT
    LoraConfig = None

ADAPTER_NAME = "default"
ADAPTER_FOLDER = "lora"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
# The paper adapts the query and value projections of the language model, and nothing else.
LORA_TARGETS = r"(.*\.)?language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
PEFT_PREFIX = "base_model.model."
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


class AdjustableLoraMixin:
    """Loads, adjusts, merges and saves the LoRA of a PLLaVA checkpoint."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *args: Any,
        lora_alpha: float | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load the weights and, if the checkpoint has one, the LoRA adapter.

        Args:
            lora_alpha: strength of the adapter, instead of the one recorded in the configuration (0 switches it off).

        Raises:
            CheckpointError: `lora_alpha` is given but there is no adapter; the adapter does not fit.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)  # type: ignore[misc]
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.config.lora_adapter is not None:
            alpha = model.config.lora_alpha if lora_alpha is None else lora_alpha
            hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
            folder = os.path.join(kwargs.get("subfolder") or "", model.config.lora_adapter)
            config_file, weights_file = (
                cached_file(pretrained_model_name_or_path, name, subfolder=folder, **hub_arguments)
                for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
            )
            model.load_lora(config_file, weights_file, alpha)
        elif lora_alpha is not None:
            raise CheckpointError(
                f"{pretrained_model_name_or_path} has no LoRA adapter, so lora_alpha={lora_alpha} would do nothing. "
                "It was merged when it was converted, or never had one."
            )
        return loaded

    def load_lora(
        self, config_file: str | os.PathLike[str], weights_file: str | os.PathLike[str], alpha: float | None = None
    ) -> None:
        """Attach a PEFT adapter from its two files.

        Args:
            alpha: strength; the adapter's own when `None`.

        Raises:
            ImportError: PEFT is not installed.
            CheckpointError: the adapter holds tensors that this model has no place for, or lacks some.
        """
        if LoraConfig is None:
            raise ImportError("This checkpoint carries a LoRA adapter, which needs PEFT: pip install peft")
        trainable = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        lora_config = LoraConfig.from_pretrained(str(Path(config_file).parent))
        self.add_adapter(lora_config, adapter_name=ADAPTER_NAME)
        weights = {self._adapter_key(name): tensor for name, tensor in load_file(weights_file).items()}
        expected = set(get_peft_model_state_dict(self, adapter_name=ADAPTER_NAME))
        if wrong := sorted(expected.symmetric_difference(weights)):
            raise CheckpointError(f"{weights_file} does not fit {type(self).__name__}: first of {len(wrong)}: {wrong[0]}")
        set_peft_model_state_dict(self, weights, adapter_name=ADAPTER_NAME)
        self._restore_dtype_and_gradients(trainable)
        self.set_lora_alpha(lora_config.lora_alpha if alpha is None else alpha)

    def set_lora_alpha(self, alpha: float) -> None:
        """Set the strength of the adapter in place, for all layers; 0 switches it off.

        Raises:
            ValueError: the model has no adapter, or `alpha` is negative.
        """
        if alpha < 0:
            raise ValueError(f"lora_alpha must not be negative, got {alpha}.")
        for layer in self.lora_layers().values():
            layer.set_scale(ADAPTER_NAME, alpha / layer.lora_alpha[ADAPTER_NAME])
        self.config.lora_alpha = alpha

    def lora_layers(self) -> dict[str, nn.Module]:
        """The adapted layers by name.

        Raises:
            ValueError: the model has no adapter.
        """
        layers = {}
        if LoraConfig is not None:
            layers = {name: module for name, module in self.named_modules() if isinstance(module, LoraLayer)}
        if not layers:
            raise ValueError(f"This {type(self).__name__} has no LoRA adapter: it was merged or never had one.")
        return layers

    def merge_lora(self, alpha: float | None = None) -> Self:
        """Add the adapter to the weights, W <- W0 + (alpha / r) B A, and drop it.

        Args:
            alpha: strength to bake in; the present one when `None`.
        """
        layers = self.lora_layers()
        if alpha is not None:
            self.set_lora_alpha(alpha)
        for name, layer in layers.items():
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(self.get_submodule(parent), child, layer.get_base_layer())
        del self.peft_config
        self._hf_peft_config_loaded = False
        self.config.lora_adapter = self.config.lora_alpha = None
        return self

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save as transformers does; an attached adapter goes to its own folder, next to the unmerged weights."""
        if not getattr(self, "_hf_peft_config_loaded", False) or ADAPTER_NAME not in self.peft_config:
            super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
            return
        self.config.lora_adapter = self.config.lora_adapter or ADAPTER_FOLDER
        folder = Path(save_directory, self.config.lora_adapter)
        folder.mkdir(parents=True, exist_ok=True)
        adapter = get_peft_model_state_dict(self, adapter_name=ADAPTER_NAME)
        save_file(
            {PEFT_PREFIX + self._saved_key(name): tensor.contiguous().cpu() for name, tensor in adapter.items()},
            folder / ADAPTER_WEIGHTS,
            metadata={"format": "pt"},
        )
        self.peft_config[ADAPTER_NAME].save_pretrained(str(folder))
        state_dict = kwargs.pop("state_dict", None) or self.state_dict()
        plain = {key.replace(".base_layer.", "."): value for key, value in state_dict.items() if ".lora_" not in key}
        self._hf_peft_config_loaded = False  # otherwise transformers saves the adapter alone
        try:
            super().save_pretrained(save_directory, state_dict=plain, **kwargs)  # type: ignore[misc]
        finally:
            self._hf_peft_config_loaded = True

    def _restore_dtype_and_gradients(self, trainable: set[str]) -> None:
        # PEFT freezes everything but the adapter; the projector trains with it (paper, section 4.1). The adapter
        # runs in the model's dtype, as in the official code.
        for name, parameter in self.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.to(self.dtype)
            elif "language_model" not in name:
                parameter.requires_grad_(name in trainable)

    def _adapter_key(self, saved: str) -> str:
        """Name in this model of a tensor of the adapter file, which is written for the model with a head."""
        name = saved.removeprefix(PEFT_PREFIX)
        return name.removeprefix("model.") if not hasattr(self, "lm_head") else name

    def _saved_key(self, name: str) -> str:
        return name if hasattr(self, "lm_head") else f"model.{name}"


__all__ = ["AdjustableLoraMixin"]
