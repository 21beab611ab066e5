"""LoRA whose strength can be changed after training (PLLaVA paper, section 3.4: post-training optimisation).

A layer with LoRA computes h = W0 x + (alpha / r) B A x. A checkpoint stores A and B separately from W0, in its folder
`lora/` and in PEFT's format. So whoever loads the checkpoint can choose `alpha`, the strength.
"""

import copy
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.utils import cached_file

from .errors import CheckpointError, one_line
from .transformers_compat import mark_adapter
from .video_llm_checkpoint_files import HUB_OPTIONS, check_file, check_headers, check_values
from .video_llm_lora_files import expected_layers, fit_lora_options, read_lora_options
from .video_llm_push import SAVE_ARGUMENTS, save_and_push

ADAPTER_NAME = "default"
ADAPTER_FOLDER = "lora"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
# The layers that the paper adapts: the query and value projections of the language model.
LORA_TARGETS = r"(.*\.)?language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
FACTORS = (".lora_A.weight", ".lora_B.weight")
PEFT_PREFIX = "base_model.model."
# Options of PEFT that make the adapter more than W0 x + (alpha / r) B A x, so that alpha alone is not its strength.
UNSAVABLE = ("use_dora", "lora_bias", "target_parameters", "trainable_token_indices", "use_qalora")

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Base
else:  # at run time, the attributes come from the `PreTrainedModel` that each subclass also inherits from
    _Base = object


class AdjustableLoraMixin(_Base):
    """Loads, adjusts, merges and saves the LoRA of a PLLaVA checkpoint."""

    keeps_lora: ClassVar[bool] = True

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
            lora_alpha: strength of the adapter; `None` uses the one in the configuration. 0 switches the adapter off.

        Raises:
            CheckpointError: `lora_alpha` is passed, but the checkpoint has no adapter; or the configuration names an
                adapter that is missing, damaged, or does not fit the model.
            ImportError: there is an adapter and PEFT is not installed.
        """
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.config.lora_adapter is not None:
            alpha = model.config.lora_alpha if lora_alpha is None else lora_alpha
            model.load_lora(*_find_adapter(pretrained_model_name_or_path, model.config.lora_adapter, kwargs), alpha)
        else:
            _refuse_useless_alpha(pretrained_model_name_or_path, model.config, lora_alpha)
        return loaded

    def load_lora(
        self, config_file: str | os.PathLike[str], weights_file: str | os.PathLike[str], alpha: float | None = None
    ) -> None:
        """Attach a PEFT adapter from its two files.

        Args:
            config_file: the adapter's `adapter_config.json`.
            weights_file: the adapter's weights.
            alpha: strength; `None` uses the one in `config_file`.

        Raises:
            ImportError: PEFT is not installed.
            CheckpointError: the adapter is damaged, is not a LoRA, lacks tensors, or has tensors that do not belong to
                this model. The model is then unchanged.
            ValueError: `alpha` is negative, or the model already has an adapter.
        """
        if self.lora_name() is not None:
            raise ValueError(f"This {type(self).__name__} already has a LoRA adapter: merge it first (merge_lora).")
        peft = _peft()
        raw = read_lora_options(config_file)
        alpha = _checked_alpha(raw.get("lora_alpha", 8) if alpha is None else alpha)
        weights = self._read_adapter(weights_file)
        modules = dict(self.named_modules())
        self._check_names(weights_file, weights, raw)
        options = fit_lora_options(raw, config_file, modules, weights)
        trainable = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        try:
            lora_config = peft.LoraConfig(**options)
            # transformers' `add_adapter` would do the same, but it raises an error if PEFT is older than the release
            # that it requires, and that release may not be published yet.
            peft.inject_adapter_in_model(lora_config, self, ADAPTER_NAME)
            mark_adapter(self, True)
            self._place_factors(weights)
            self._restore_state(trainable)
            self.set_lora_alpha(alpha)
        except BaseException as error:
            self._detach(trainable)
            if isinstance(error, CheckpointError) or not isinstance(error, Exception):
                raise
            reason = one_line(error, 200)
            raise CheckpointError(f"{config_file} describes no LoRA that can be attached ({reason}).") from error
        # `save_pretrained` writes this value: the `target_modules` of the file, or the names of the adapted layers if
        # `_said_layers` cannot tell which layers the file means.
        self.peft_config[ADAPTER_NAME].target_modules = (
            raw["target_modules"]
            if self._said_layers(raw) is not None
            else sorted(self._saved_key(name) for name in self.lora_layers())
        )

    def _check_names(
        self, weights_file: str | os.PathLike[str], weights: dict[str, torch.Tensor], raw: Mapping[str, Any]
    ) -> None:
        """Refuse the weights of an adapter if they are not exactly those of the layers that it adapts."""
        layers = self._said_layers(raw)
        if layers is None:
            names = {name for name, _ in self.named_modules()}
            layers = {key.removesuffix(end) for key in weights for end in FACTORS if key.endswith(end)} & names
        if wrong := sorted({f"{layer}{end}" for layer in layers for end in FACTORS} ^ weights.keys()):
            raise CheckpointError(
                f"{weights_file} does not fit {type(self).__name__}: {len(wrong)} tensors are only in one of "
                f"them, such as {wrong[0]}."
            )

    def _said_layers(self, raw: Mapping[str, Any]) -> set[str] | None:
        """Names of the layers that the file says it adapts; `None` if it describes them in a way unknown here."""
        names = {self._saved_key(name): name for name, _ in self.named_modules()}
        if raw.get("target_modules") == LORA_TARGETS:
            return {name for saved, name in names.items() if re.fullmatch(LORA_TARGETS, saved)}
        layers = expected_layers(raw, names)
        return None if layers is None else {names[saved] for saved in layers}

    def _detach(self, trainable: set[str]) -> None:
        """Undo an attempt to attach an adapter: the model is again as it was before."""
        for name, layer in [(name, module) for name, module in self.named_modules() if _is_lora(module)]:
            self.set_submodule(name, layer.get_base_layer())
        if hasattr(self, "peft_config"):
            del self.peft_config
        mark_adapter(self, False)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trainable)

    def set_lora_alpha(self, alpha: float) -> None:
        """Set the strength of the adapter in place, for all layers; 0 switches it off.

        Raises:
            ValueError: the model has no adapter, or `alpha` is negative.
        """
        alpha = _checked_alpha(alpha)
        name, layers = self.lora_name(), self.lora_layers()
        # All layers are scaled by one factor. Layers that were trained with an alpha of their own (`alpha_pattern`)
        # keep the same ratio to the others.
        factor = alpha / self.peft_config[name].lora_alpha
        for layer in layers.values():
            layer.set_scale(name, factor)
        self.config.lora_alpha = alpha

    def lora_name(self) -> str | None:
        """Name of the attached LoRA, whether this class or PEFT (`get_peft_model`) attached it; `None` without one.

        Raises:
            ValueError: several are attached, and not exactly one of them is active.
        """
        layers = [module for module in self.modules() if _is_lora(module)]
        names = {name for layer in layers for name in layer.lora_alpha}
        active = {name for layer in layers for name in layer.active_adapters} & names
        if len(names) < 2:
            return next(iter(names), None)
        if len(active) != 1:
            raise ValueError(f"Several LoRA adapters are attached ({', '.join(sorted(names))}): activate one of them.")
        return next(iter(active))

    def lora_layers(self) -> dict[str, Any]:
        """The adapted layers (PEFT's `LoraLayer`) by name.

        Raises:
            ValueError: the model has no adapter.
        """
        adapter = self.lora_name()
        if adapter is None:
            raise ValueError(f"This {type(self).__name__} has no LoRA adapter: it was merged or never had one.")
        return {
            name: module for name, module in self.named_modules() if _is_lora(module) and adapter in module.lora_alpha
        }

    def merge_lora(self, alpha: float | None = None) -> Self:
        """Add the adapter to the weights, W <- W0 + (alpha / r) B A, and remove it.

        The weights of the language model become trainable again. If they are quantized, PEFT merges the adapter and
        quantizes the result again, which rounds a second time; quantized weights stay frozen. For better answers, merge
        the adapter before the model is quantized.

        Args:
            alpha: strength to merge with; `None` uses the current one.

        Raises:
            ValueError: the model has no adapter, some weights are offloaded, or `alpha` is negative.
        """
        adapter, layers = self.lora_name(), self.lora_layers()
        if any(layer.get_base_layer().weight.is_meta for layer in layers.values()):
            raise ValueError(
                "Some weights are offloaded and cannot be changed: load the model whole to merge its LoRA."
            )
        if alpha is not None:
            self.set_lora_alpha(alpha)
        for name, layer in layers.items():
            _merge_layer(layer, adapter)
            parent, _, child = name.rpartition(".")
            setattr(self.get_submodule(parent), child, layer.get_base_layer())
        # Modules that PEFT trained as a whole (`modules_to_save`) replace the original ones.
        for name, wrapper in _whole_copies(self).items():
            self.set_submodule(name, _active_copy(wrapper, adapter))
        del self.peft_config
        mark_adapter(self, False)
        self.config.lora_merged_alpha = self.config.lora_alpha
        self.config.lora_adapter = self.config.lora_alpha = None
        quantizer = getattr(self, "hf_quantizer", None)
        for name, parameter in self.named_parameters():
            is_quantized = quantizer is not None and quantizer.param_needs_quantization(self, name)
            if _is_language(name) and parameter.is_floating_point() and not is_quantized:
                parameter.requires_grad_(True)
        return self

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save as transformers does. An attached adapter is not merged, but saved in a folder of its own."""
        kwargs.update(zip(SAVE_ARGUMENTS, args, strict=False))
        adapter = self.lora_name()
        if adapter is None:
            super().save_pretrained(save_directory, **kwargs)
            return
        if kwargs.pop("push_to_hub", False):
            save_and_push(self, save_directory, kwargs)
            return
        if any(layer.merged for layer in self.lora_layers().values()):
            raise ValueError("PEFT has merged the LoRA into the weights: call unmerge_adapter(), or merge_lora().")
        # A downloaded config.json may name any folder as `lora_adapter`. The name is replaced, so that nothing is
        # written outside `save_directory`.
        self.config.lora_adapter = ADAPTER_FOLDER
        self._record_alpha(adapter)
        state_dict = kwargs.pop("state_dict", None) or self.state_dict()
        if kwargs.get("is_main_process", True):
            self._save_adapter(Path(save_directory, ADAPTER_FOLDER), state_dict, adapter)
        with self._adapter_aside(adapter):
            super().save_pretrained(save_directory, state_dict=plain_states(state_dict, adapter), **kwargs)

    @contextmanager
    def _adapter_aside(self, adapter: str) -> Iterator[None]:
        """Remove the adapter from the model while transformers saves it.

        It is not enough to pass the right `state_dict`: if the model is quantized, transformers saves the tensors of
        the model instead.
        """
        held: dict[str, Any] = {**self.lora_layers(), **_whole_copies(self)}
        plain = {
            name: _active_copy(module, adapter) if hasattr(module, "modules_to_save") else module.get_base_layer()
            for name, module in held.items()
        }
        mark_adapter(self, False)  # otherwise transformers saves the adapter alone
        try:
            for name, module in plain.items():
                self.set_submodule(name, module)
            yield
        finally:
            for name, module in held.items():
                self.set_submodule(name, module)
            mark_adapter(self, True)

    def _record_alpha(self, adapter: str) -> None:
        """Write the alpha of the attached adapter into the configuration.

        If PEFT attached or rescaled the adapter, the configuration does not know its alpha, so it is computed from the
        scaling of a layer.
        """
        training_alpha = self.peft_config[adapter].lora_alpha
        layer = next(iter(self.lora_layers().values()))
        present = layer.scaling[adapter]
        layer.set_scale(adapter, 1.0)
        alpha = training_alpha * present / layer.scaling[adapter] if layer.scaling[adapter] else 0.0
        layer.scaling[adapter] = present
        recorded = self.config.lora_alpha
        if recorded is None or not math.isclose(recorded, alpha, rel_tol=1e-6, abs_tol=1e-9):
            self.config.lora_alpha = alpha
        if self.config.lora_training_alpha is None:
            self.config.lora_training_alpha = training_alpha

    def _save_adapter(self, folder: Path, state_dict: dict[str, torch.Tensor], adapter: str) -> None:
        factors = {
            key.replace(f".{adapter}.", ".", 1): tensor
            for key, tensor in state_dict.items()
            if key.endswith((f".lora_A.{adapter}.weight", f".lora_B.{adapter}.weight"))
        }
        config = copy.deepcopy(self.peft_config[adapter])
        if strange := sorted(name for name in UNSAVABLE if getattr(config, name, None)):
            raise ValueError(
                f"The LoRA uses PEFT's {', '.join(strange)}, so its strength cannot be changed by alpha alone: merge "
                "it (merge_and_unload), or save it with PEFT."
            )
        # Modules and biases that PEFT trained together with the adapter are saved with the model's weights. Some ways
        # to initialise a LoRA change the model's weights. The changed weights are saved, so loading the adapter must
        # not change them a second time.
        config.modules_to_save, config.bias, config.init_lora_weights = None, "none", True
        # The weights of the model are in the parent folder. The path that they were loaded from is not saved, because
        # it may be private.
        config.base_model_name_or_path = None
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {PEFT_PREFIX + self._saved_key(name): tensor.contiguous().cpu() for name, tensor in factors.items()},
            folder / ADAPTER_WEIGHTS,
            metadata={"format": "pt"},
        )
        config.save_pretrained(str(folder))

    def _read_adapter(self, weights_file: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
        try:
            return {self._adapter_key(name): tensor for name, tensor in load_file(weights_file).items()}
        except (SafetensorError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{weights_file} is truncated or damaged ({reason}): download it again.") from error

    def _place_factors(self, weights: dict[str, torch.Tensor]) -> None:
        # Put the factors on the device on which the layer computes. PEFT puts them on the device of the layer's
        # weights, which for an offloaded layer is "meta", where they would have no values. Their dtype is that of the
        # model, as in the official code.
        for name, layer in self.lora_layers().items():
            device = _execution_device(layer.get_base_layer())
            for factor in ("lora_A", "lora_B"):
                tensor = weights[f"{name}.{factor}.weight"].to(device=device, dtype=self.dtype)
                getattr(layer, factor)[ADAPTER_NAME].weight = nn.Parameter(tensor)

    def _restore_state(self, trainable: set[str]) -> None:
        # PEFT has frozen everything except the adapter. The projector is trained with the adapter (paper, section 4.1),
        # so everything outside the language model becomes trainable again if it was so before.
        for name, parameter in self.named_parameters():
            if ".lora_" not in name and not _is_language(name):
                parameter.requires_grad_(name in trainable)
        # The new dropout layers of the adapter are in training mode. This call puts them into the mode of the model.
        self.train(self.training)

    def _adapter_key(self, saved: str) -> str:
        """The name in this model of a tensor of the adapter file, which has the names of the model with a head."""
        name = saved.removeprefix(PEFT_PREFIX)
        return name.removeprefix("model.") if not hasattr(self, "lm_head") else name

    def _saved_key(self, name: str) -> str:
        return name if hasattr(self, "lm_head") else f"model.{name}"


def _peft() -> Any:
    """Import PEFT. This is done only for models with an adapter, because the import is slow."""
    try:
        import peft
    except ImportError as error:
        raise ImportError("This checkpoint carries a LoRA adapter, which needs PEFT: pip install peft") from error
    return peft


def _find_adapter(source: str | os.PathLike[str] | None, adapter: str, kwargs: dict[str, Any]) -> tuple[str, str]:
    """Find the two files of a checkpoint's adapter, configuration and weights, and download them if necessary."""
    hub_arguments = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
    if not isinstance(adapter, str) or os.path.isabs(adapter) or ".." in Path(adapter).parts:
        raise CheckpointError(f"{source} names a LoRA adapter outside of its folder ({adapter!r}), which is not read.")
    folder = os.path.join(kwargs.get("subfolder") or "", adapter)
    try:
        files = [
            cached_file(str(source), name, subfolder=folder, **hub_arguments)
            for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
        ]
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{source} names a LoRA adapter in its folder {folder!r}, which cannot be read ({reason}): "
            "download the checkpoint again with all its files, or pass lora_adapter=None to load no adapter."
        ) from error
    root = Path(source) if source is not None and os.path.isdir(source) else Path(str(files[0])).parent
    for file in files:
        check_file(Path(str(file)), root)
    check_values(check_headers([Path(str(files[1]))], None))
    return str(files[0]), str(files[1])


def _refuse_useless_alpha(source: str | os.PathLike[str] | None, config: Any, lora_alpha: float | None) -> None:
    # If the caller passes `lora_alpha` to an Auto class, it arrives here as a field of the configuration. A checkpoint
    # that never had an adapter, or whose adapter was merged, has no value in this field; so the value is the caller's.
    never_had_one = config.lora_training_alpha is None or config.lora_merged_alpha is not None
    if lora_alpha is None and never_had_one:
        lora_alpha = config.lora_alpha
    if lora_alpha is not None:
        raise CheckpointError(
            f"{source} has no LoRA adapter, so lora_alpha={lora_alpha} would do nothing. Its adapter was merged into "
            "the weights, or it never had one."
        )


def _checked_alpha(alpha: float) -> float:
    if not 0 <= alpha < float("inf"):  # also refuses NaN
        raise ValueError(f"lora_alpha must be a number of at least 0, got {alpha}.")
    return alpha


def _execution_device(base: Any) -> torch.device | str | int:
    """The device on which a layer computes. The weights of an offloaded layer are there only while it computes."""
    hook = getattr(base, "_hf_hook", None)
    execution_device = getattr(hook, "execution_device", None)
    return base.weight.device if execution_device is None else execution_device


def _merge_layer(layer: Any, adapter: Any) -> None:
    """Merge the adapter into one layer, computing in at least float32. Quantized layers are left to PEFT's `merge`."""
    base = layer.get_base_layer()
    if layer.merged:
        layer.unmerge()
    # torchao quantizes by replacing the weight with one of another class; the layer itself remains an `nn.Linear`.
    if type(base) is not nn.Linear or type(base.weight) is not nn.Parameter:
        layer.merge()
        return
    with torch.no_grad():
        wide = torch.promote_types(base.weight.dtype, torch.float32)
        a, b = (getattr(layer, name)[adapter].weight.to(wide) for name in ("lora_A", "lora_B"))
        merged = torch.addmm(base.weight.to(wide), b, a, alpha=layer.scaling[adapter])
        base.weight.copy_(merged.to(base.weight.dtype))


def plain_states(states: Mapping[str, torch.Tensor], adapter: str) -> dict[str, torch.Tensor]:
    """Rename the weights of a model with PEFT's layers to their names without PEFT, and drop those of adapters.

    For a module that PEFT trained as a whole (`modules_to_save`), the trained weights are returned.

    Args:
        states: the weights of the model.
        adapter: name of the adapter whose trained modules are used.
    """
    plain = {}
    copied = tuple(key.partition(".modules_to_save.")[0] for key in states if f".modules_to_save.{adapter}." in key)
    for key, value in states.items():
        if ".lora_" in key:
            continue
        before, is_copy, after = key.partition(".modules_to_save.")
        if is_copy:
            name, _, rest = after.partition(".")
            if name != adapter:
                continue
            key = f"{before}.{rest}"
        before, is_original, rest = key.partition(".original_module.")
        if is_original:
            if before in copied:
                continue
            key = f"{before}.{rest}"
        plain[key.replace(".base_layer.", ".")] = value
    return plain


def _whole_copies(model: nn.Module) -> dict[str, Any]:
    """PEFT's wrappers around modules that it trains as a whole (`modules_to_save`), by name."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "modules_to_save")}


def _active_copy(wrapper: Any, adapter: str | None) -> nn.Module:
    copies: dict[str | None, nn.Module] = dict(wrapper.modules_to_save.items())
    return copies.get(adapter, wrapper.original_module)


def _is_lora(module: nn.Module) -> bool:
    # If PEFT has not been imported, the model cannot have an adapter.
    return "peft" in sys.modules and isinstance(module, _peft().tuners.lora.LoraLayer)


def _is_language(name: str) -> bool:
    """Whether a parameter belongs to the language model or its head, which are frozen while a LoRA is trained."""
    return "language_model." in name or name.startswith("lm_head.")


__all__ = ["AdjustableLoraMixin"]
