"""The table of designs, with one row for each. All code that lists the designs reads it. Importing it imports no torch.

Classes and functions are written as references, `"package.module:name"`, and imported when they are needed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

# The package of all modules that the rows below refer to, except converters and presets.
_MODELS = "hf_videollm.models"


@dataclass(frozen=True, kw_only=True)
class Design:
    """One design: what Auto classes, converters, costs and help texts need to know about it.

    Every attribute that names a class or a function is a reference, `"package.module:name"`; `load` imports it.

    Attributes:
        name: the `model_type` of its configuration.
        config: configuration class.
        model: class without a head.
        generating_model: class with a head.
        processor: processor class.
        video_processor: video processor class; `None` for an image-LLM, which reads no videos.
        feature_extractor: feature extractor class, for a design that takes audio.
        title: name of the design in its paper.
        paper: arXiv identifier of the paper.
        converter: function that converts published weights into a checkpoint; `None` if there are none.
        is_original: function that gets the content of a config.json, and tells whether it belongs to weights that the
            converter converts. (This is the function itself, not a reference.)
        advice: what to tell a user who tries to load such weights without converting them.
        presets: dict of names to `costs.presets.Preset`: the sizes of the models in the paper.
        checkpoint: name of the small trained checkpoint in `hf_videollm/assets`.
        next_step: what to train first after `build_checkpoint`; `None` if the design cannot be built.
    """

    name: str
    config: str
    model: str
    generating_model: str
    processor: str
    video_processor: str | None = None
    feature_extractor: str | None = None
    title: str
    paper: str
    converter: str | None = None
    is_original: Callable[[Mapping[str, Any]], bool] | None = None
    advice: str | None = None
    presets: str | None = None
    checkpoint: str | None = None
    next_step: str | None = None

    def load(self, attribute: str) -> Any:
        """Import what an attribute refers to; `None` if the design has no such part.

        Args:
            attribute: name of an attribute that holds a reference, such as `"config"`.

        Raises:
            ImportError: the module cannot be imported.
            AttributeError: the module has no such name.
        """
        reference = getattr(self, attribute)
        return None if reference is None else resolve_name(reference)

    def classes(self) -> dict[str, str]:
        """Maps the name of each class of the design to its reference."""
        parts = (
            self.config,
            self.model,
            self.generating_model,
            self.processor,
            self.video_processor,
            self.feature_extractor,
        )
        return {reference.split(":")[1]: reference for reference in parts if reference is not None}


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """An encoder that is part of a design, and that the Auto classes can also load alone.

    Attributes:
        name: the `model_type` of its configuration.
        config: configuration class, as a reference.
        model: model class, as a reference.
        feature_extractor: feature extractor class of an audio encoder, as a reference.
    """

    name: str
    config: str
    model: str
    feature_extractor: str | None = None

    def classes(self) -> dict[str, str]:
        """Maps the name of each class of the encoder to its reference."""
        parts = (self.config, self.model, self.feature_extractor)
        return {reference.split(":")[1]: reference for reference in parts if reference is not None}


def _is_original_pllava(content: Mapping[str, Any]) -> bool:
    return str(content.get("model_type")).startswith("llava")


def _is_original_videollama2(content: Mapping[str, Any]) -> bool:
    return str(content.get("model_type")).startswith("videollama2") and "mm_vision_tower" in content


def _is_qwen_vl(content: Mapping[str, Any]) -> bool:
    return content.get("model_type") == "qwen" and "visual" in content


_ROWS = (
    Design(
        name="pllava",
        config=f"{_MODELS}.configuration_pllava:PllavaConfig",
        model=f"{_MODELS}.modeling_pllava:PllavaModel",
        generating_model=f"{_MODELS}.modeling_pllava:PllavaForConditionalGeneration",
        processor=f"{_MODELS}.processing_pllava:PllavaProcessor",
        video_processor=f"{_MODELS}.video_processing_pllava:PllavaVideoProcessor",
        title="PLLaVA",
        paper="2404.16994",
        converter="hf_videollm.convert.pllava.convert:convert_pllava",
        is_original=_is_original_pllava,
        advice="An official PLLaVA checkpoint is converted with: hf-videollm convert pllava SRC DST",
        presets="hf_videollm.costs.presets:PLLAVA_PRESETS",
        checkpoint="pllava-tiny",
        next_step="align the connector on image-text pairs (as LLaVA), then PLLaVA's LoRA on videos",
    ),
    Design(
        name="videollama2",
        config=f"{_MODELS}.configuration_videollama2:VideoLlama2Config",
        model=f"{_MODELS}.modeling_videollama2:VideoLlama2Model",
        generating_model=f"{_MODELS}.modeling_videollama2:VideoLlama2ForCausalLM",
        processor=f"{_MODELS}.processing_videollama2:VideoLlama2Processor",
        video_processor=f"{_MODELS}.video_processing_videollama2:VideoLlama2VideoProcessor",
        title="VideoLLaMA2",
        paper="2406.07476",
        converter="hf_videollm.convert.videollama2.convert:convert_videollama2",
        is_original=_is_original_videollama2,
        advice="An official VideoLLaMA2 checkpoint is converted with: hf-videollm convert videollama2 SRC DST",
        presets="hf_videollm.costs.presets:VIDEOLLAMA2_PRESETS",
        next_step="train the connector alone (paper: video-text and image-text pretraining)",
    ),
    Design(
        name="videollama2_av",
        config=f"{_MODELS}.configuration_videollama2_av:VideoLlama2AVConfig",
        model=f"{_MODELS}.modeling_videollama2_av:VideoLlama2AVModel",
        generating_model=f"{_MODELS}.modeling_videollama2_av:VideoLlama2AVForCausalLM",
        processor=f"{_MODELS}.processing_videollama2_av:VideoLlama2AVProcessor",
        video_processor=f"{_MODELS}.video_processing_videollama2:VideoLlama2VideoProcessor",
        feature_extractor=f"{_MODELS}.feature_extraction_beats:BeatsFeatureExtractor",
        title="VideoLLaMA2-AV",
        paper="2406.07476",
        converter="hf_videollm.convert.videollama2.convert:convert_videollama2",
        presets="hf_videollm.costs.presets:VIDEOLLAMA2_AV_PRESETS",
        checkpoint="videollama2-av-tiny",
        next_step="train the connector alone on videos, then the audio projector alone on sounds",
    ),
    Design(
        name="iva",
        config=f"{_MODELS}.configuration_iva:IvaConfig",
        model=f"{_MODELS}.modeling_iva:IvaModel",
        generating_model=f"{_MODELS}.modeling_iva:IvaForConditionalGeneration",
        processor=f"{_MODELS}.processing_iva:IvaProcessor",
        video_processor=f"{_MODELS}.video_processing_iva:IvaVideoProcessor",
        title="IVA",
        paper="2402.13546",
        converter="hf_videollm.convert.iva.convert:convert_iva",
        presets="hf_videollm.costs.presets:IVA_PRESETS",
        checkpoint="iva-tiny",
        next_step="train connector.global_mlp on image-text pairs (recipe iva/align)",
    ),
    Design(
        name="ftfv",
        config=f"{_MODELS}.configuration_ftfv:FtfvConfig",
        model=f"{_MODELS}.modeling_ftfv:FtfvModel",
        generating_model=f"{_MODELS}.modeling_ftfv:FtfvForConditionalGeneration",
        processor=f"{_MODELS}.processing_ftfv:FtfvProcessor",
        video_processor=f"{_MODELS}.video_processing_ftfv:FtfvVideoProcessor",
        title="FTFV",
        paper="2406.08024",
        converter="hf_videollm.convert.ftfv.convert:convert_ftfv",
        is_original=_is_qwen_vl,
        advice="Qwen-VL's vision module becomes part of an FTFV with: hf-videollm convert ftfv SRC LLM DST",
        presets="hf_videollm.costs.presets:FTFV_PRESETS",
        checkpoint="ftfv-tiny",
        next_step="train the connector alone on image-text pairs (paper: align)",
    ),
    # An image-LLM that transformers does not have. LinVT can be put before it.
    Design(
        name="xgen_mm",
        config=f"{_MODELS}.configuration_xgen_mm:XgenMMConfig",
        model=f"{_MODELS}.modeling_xgen_mm:XgenMMModel",
        generating_model=f"{_MODELS}.modeling_xgen_mm:XgenMMForConditionalGeneration",
        processor=f"{_MODELS}.processing_xgen_mm:XgenMMProcessor",
        title="XGen-MM",
        paper="2408.08872",
        converter="hf_videollm.convert.xgen_mm.convert:convert_xgen_mm",
    ),
    Design(
        name="linvt",
        config=f"{_MODELS}.configuration_linvt:LinVTConfig",
        model=f"{_MODELS}.modeling_linvt:LinVTModel",
        generating_model=f"{_MODELS}.modeling_linvt:LinVTForCausalLM",
        processor=f"{_MODELS}.processing_linvt:LinVTProcessor",
        video_processor=f"{_MODELS}.video_processing_linvt:LinVTVideoProcessor",
        title="LinVT",
        paper="2412.05185",
        checkpoint="linvt-tiny",
        next_step="train LinVT alone (paper: stage 1)",
    ),
)

# Maps the name of a design to its row.
DESIGNS: dict[str, Design] = {design.name: design for design in _ROWS}
ENCODERS: dict[str, Encoder] = {
    "beats": Encoder(
        name="beats",
        config=f"{_MODELS}.configuration_beats:BeatsConfig",
        model=f"{_MODELS}.modeling_beats:BeatsModel",
        feature_extractor=f"{_MODELS}.feature_extraction_beats:BeatsFeatureExtractor",
    ),
    "qwen_vl_vision": Encoder(
        name="qwen_vl_vision",
        config=f"{_MODELS}.configuration_qwen_vl_vision:QwenVLVisionConfig",
        model=f"{_MODELS}.modeling_qwen_vl_vision:QwenVLVisionModel",
    ),
}


def add(design: Design) -> None:
    """Add a row to the table; the same row may be added again.

    Raises:
        ValueError: another design has this name.
    """
    known = DESIGNS.get(design.name)
    if known is not None and known != design:
        raise ValueError(f"There is a design {design.name!r} already ({known.config}): choose another model_type.")
    DESIGNS[design.name] = design


def buildable() -> list[str]:
    """Names of the designs that `build_checkpoint` can make."""
    return [name for name, row in DESIGNS.items() if row.next_step is not None]


__all__ = ["DESIGNS", "ENCODERS", "Design", "Encoder", "add", "buildable"]
