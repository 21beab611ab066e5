"""Old names of modules and of their contents. An import of an old name gives what has the new name now.

So programs and `python -m` commands that were written for an earlier release still work.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pkgutil import resolve_name
from types import CodeType, ModuleType
from typing import Any

from .after_import import call_after_import

# Names of `models.linvt_backbones` that are in `old_backbones` now.
_OF_BACKBONES = [
    "CAPPED_LOGITS",
    "check_backbone",
    "encode_frames",
    "encode_images",
    "first_position",
    "has_deepstack",
    "has_spatial_positions",
    "prompt_positions",
    "special_embeddings",
    "token_types",
]

# Maps old names to new names, both inside `hf_videollm`.
MOVED: dict[str, str] = {
    "cli_build": "cli.build",
    "cli_convert": "cli.convert",
    "cli_output": "cli.output",
    "cli_quiet": "cli.quiet",
    "data.atomic_file": "atomic",
    "data.synthetic": "synthetic.clips",
    "data.synthetic_long": "synthetic.long",
    "data.synthetic_render": "synthetic.render",
    "data.synthetic_scene": "synthetic.scene",
    "evaluation.kept_prompt": "models.video_llm_kept_prompt",
    "hub.atomic": "atomic",
    "hub.conversion": "convert.tensors",
    "hub.conversion_report": "convert.report",
    "hub.convert_ftfv": "convert.ftfv.convert",
    "hub.convert_ftfv_keys": "convert.ftfv.keys",
    "hub.convert_ftfv_processor": "convert.ftfv.processor",
    "hub.convert_ftfv_sources": "convert.ftfv.sources",
    "hub.convert_iva": "convert.iva.convert",
    "hub.convert_pllava": "convert.pllava.convert",
    "hub.convert_pllava_config": "convert.pllava.config",
    "hub.convert_pllava_keys": "convert.pllava.keys",
    "hub.convert_pllava_processor": "convert.pllava.processor",
    "hub.convert_videollama2": "convert.videollama2.convert",
    "hub.convert_videollama2_beats": "convert.videollama2.beats",
    "hub.convert_videollama2_config": "convert.videollama2.config",
    "hub.convert_videollama2_keys": "convert.videollama2.keys",
    "hub.convert_videollama2_processor": "convert.videollama2.processor",
    "hub.convert_videollama2_source": "convert.videollama2.sources",
    "hub.convert_xgen_mm": "convert.xgen_mm.convert",
    "hub.convert_xgen_mm_keys": "convert.xgen_mm.keys",
    "hub.convert_xgen_mm_sources": "convert.xgen_mm.config",
    "hub.flops": "costs.flops",
    "hub.flops_counter": "costs.counter",
    "hub.flops_presets": "costs.presets",
    "hub.flops_report": "costs.report",
    "hub.info": "costs.info",
    "hub.linvt_table": "costs.linvt",
    "hub.parts": "convert.parts",
    "hub.pickle_child": "convert.pickle_child",
    "hub.pickle_reader": "convert.pickle_reader",
    "hub.stream": "convert.stream",
    "hub.tokenizer_files": "convert.tokenizers",
    "hub.tokenizer_videollama2": "convert.videollama2.tokenizer",
    "hub.tune_alpha": "training.tune_alpha",
    "models.audio_clock": "models.media_audio_clock",
    "models.audio_inputs": "models.media_audio_inputs",
    "models.audio_io": "models.media_audio",
    "models.audio_windows": "models.media_audio_windows",
    "models.blank_media": "models.media_blank",
    "models.chat_template_language_model": "models.video_llm_chat_template",
    "models.chat_template_variables": "models.video_llm_chat_variables",
    "models.checkpoint_config": "models.video_llm_checkpoint_config",
    "models.checkpoint_files": "models.video_llm_checkpoint_files",
    "models.checkpoint_linvt": "models.linvt_checkpoint",
    "models.checkpoint_video_llm": "models.video_llm_checkpoint",
    "models.dataset_columns": "models.media_dataset_columns",
    "models.eager_attention": "models.video_llm_eager_attention",
    "models.file_clock": "models.media_clock",
    "models.generation_linvt": "models.linvt_generation",
    "models.generation_options": "models.video_llm_generation_options",
    "models.generation_video_llm": "models.video_llm_generation",
    "models.head_video_llm": "models.video_llm_head",
    "models.iva_connector": "models.modeling_iva",
    "models.linvt_aggregator": "models.linvt_layers",
    "models.linvt_attention": "models.linvt_layers",
    "models.linvt_pooling": "models.linvt_layers",
    "models.linvt_scorer": "models.linvt_layers",
    "models.lora_files": "models.video_llm_lora_files",
    "models.lora_pllava": "models.pllava_lora",
    "models.lora_video_llm": "models.video_llm_lora",
    "models.media_errors": "models.errors",
    "models.message_blocks": "models.video_llm_messages",
    "models.option_names": "models.video_llm_option_names",
    "models.placeholders_video_llm": "models.video_llm_placeholders",
    "models.processing_checked": "models.video_llm_checked_processor",
    "models.quantization_video_llm": "models.video_llm_quantization",
    "models.regstage_videollama2": "models.videollama2_regstage",
    "models.shot_sampling": "models.media_shots",
    "models.training_linvt": "models.linvt_training",
    "models.trust": "models.video_llm_trust",
    "models.video_backends": "models.media_backends",
    "models.video_clip": "models.media_clip",
    "models.video_head": "models.media_video_head",
    "models.video_inputs": "models.media_video_inputs",
    "models.video_io": "models.media_video",
    "models.video_orientation": "models.media_orientation",
    "models.video_packets": "models.media_packets",
    "models.video_pyav": "models.media_pyav",
    "models.vision_tower_video_llm": "models.video_llm_vision_tower",
    "training.audio_cache": "training.caches.sounds",
    "training.feature_cache": "training.caches.features",
    "training.frame_cache": "training.caches.frames",
    "training.learning_rates": "training.trainer",
    "training.synthetic_check": "synthetic.check",
    "training.tiny": "synthetic.tiny.pllava",
    "training.tiny_av": "synthetic.tiny.videollama2_av",
    "training.tiny_ftfv": "synthetic.tiny.ftfv",
    "training.tiny_iva": "synthetic.tiny.iva",
    "training.tiny_linvt": "synthetic.tiny.linvt",
}
# For each module, maps the names that it no longer has to references, `"module:name"` inside `hf_videollm`. If a
# reference ends with `()`, this function is called, and its result is the value.
MOVED_NAMES: dict[str, dict[str, str]] = {
    "convert.ftfv.processor": {"build_generation_config": "convert.parts:language_generation_config"},
    "costs.presets": {"PRESETS": "costs.presets:all_presets()"},
    "models.iva_hooks": {"hold_gradients": "models.transformers_compat:hold_gradients"},
    "models.linvt_backbones": {
        "FrameCall": "models.linvt_families:FrameCall",
        "frame_inputs": "models.linvt_frames:frame_inputs",
        **{name: f"old_backbones:{name}" for name in _OF_BACKBONES},
    },
}


class _OldName(InspectLoader):
    """Loads the module with the new name when the old name is imported. Both names then mean the same module object."""

    def __init__(self, new_name: str) -> None:
        self.new_name = new_name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.new_name)
        # The import system overwrites these two attributes with those of the old name; `exec_module` restores them.
        self.own = (module.__spec__, module.__loader__)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__, module.__loader__ = self.own

    def get_code(self, fullname: str) -> CodeType:
        """Code for `python -m OLD_NAME`: it runs the module with its new name, so that its relative imports work."""
        run_new_name = f"import runpy; runpy.run_module({self.new_name!r}, run_name='__main__', alter_sys=True)"
        return compile(run_new_name, fullname, "exec")

    def get_source(self, fullname: str) -> None:
        return None


class OldNames(MetaPathFinder):
    """Finds modules of one package by their old names.

    Args:
        package: name of the package.
        moved: maps old names to new names, both inside the package.
    """

    def __init__(self, package: str, moved: Mapping[str, str]) -> None:
        self.moved = {f"{package}.{old}": f"{package}.{new}" for old, new in moved.items()}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        new_name = self.moved.get(fullname)
        return ModuleSpec(fullname, _OldName(new_name)) if new_name else None


def keep_old_names() -> None:
    """Make the old names of this package importable. Further calls change nothing."""
    package = __package__ or "hf_videollm"
    if any(isinstance(finder, OldNames) for finder in sys.meta_path):
        return
    sys.meta_path.append(OldNames(package, MOVED))
    for module, names in MOVED_NAMES.items():
        call_after_import(f"{package}.{module}", partial(_add_old_names, package, module, names))


def _add_old_names(package: str, module_name: str, names: Mapping[str, str]) -> None:
    """Make names importable from a module that no longer has them. They are looked up only when a program uses them."""
    module: Any = importlib.import_module(f"{package}.{module_name}")

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        found = resolve_name(f"{package}.{names[name].removesuffix('()')}")
        return found() if names[name].endswith("()") else found

    # Python calls a module's `__getattr__` for names that the module does not have.
    module.__getattr__ = find


def run_as_command(*command: str) -> None:
    """Run `hf-videollm COMMAND`, for modules that had a command line of their own (`python -m MODULE`) before it.

    The command line imports those modules. So they cannot import it in turn, and call this function instead.
    """
    importlib.import_module(f"{__package__}.cli.commands").run_old_module(command)
