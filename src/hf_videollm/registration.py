"""Makes the designs known to transformers: Auto classes, pipeline task, and the code that travels with checkpoints.

Importing this module, or the package, does not import transformers. The designs are registered at the end of the first
`import transformers`, in whatever code that is. No code can use an Auto class before. transformers' public functions
for registering take classes and not their names, so all designs are imported at that time.
"""

from pkgutil import resolve_name

from . import designs
from .after_import import call_after_import
from .designs import Design, Encoder

_is_registered = False


def register_with_transformers() -> None:
    """Register all designs now if transformers has been imported, otherwise as soon as it is."""
    call_after_import("transformers", register_all)


def register_design(design: Design) -> None:
    """Add a design to those of the package, for the Auto classes, the pipeline, the command line and the costs.

    Args:
        design: its row of the table. The modules that the row refers to are imported when transformers is imported, or
            now if it has been imported. Files of their folder are copied into checkpoints of the design, so the folder
            must follow the rules of `hf_videollm/models`.

    Raises:
        ValueError: another design has this name.
        ImportError: a module that the row refers to cannot be imported.
    """
    designs.add(design)
    if _is_registered:
        _register_design(design)


def register_all() -> None:
    """Register every design and the pipeline task; a second call changes nothing."""
    global _is_registered
    if _is_registered:
        return
    # The flag is set before the work, because importing a design's modules can lead to another call of this function.
    _is_registered = True
    try:
        for design in list(designs.DESIGNS.values()):
            _register_design(design)
        for encoder in designs.ENCODERS.values():
            _register_encoder(encoder)
        _register_pipeline()
    except BaseException as error:
        _is_registered = False
        error.add_note("hf_videollm, which has been imported, registers its designs when transformers is imported.")
        raise


def _register_design(design: Design) -> None:
    """Register a design with every Auto class, and have its files copied into its checkpoints."""
    import transformers

    config, model, generating_model = (design.load(part) for part in ("config", "model", "generating_model"))
    transformers.AutoConfig.register(design.name, config, exist_ok=True)
    transformers.AutoModel.register(config, model, exist_ok=True)
    for auto_class in (
        transformers.AutoModelForImageTextToText,
        transformers.AutoModelForMultimodalLM,
        transformers.AutoModelForCausalLM,
    ):
        auto_class.register(config, generating_model, exist_ok=True)
    processor, video_processor = design.load("processor"), design.load("video_processor")
    transformers.AutoProcessor.register(config, processor, exist_ok=True)
    if video_processor is not None:
        transformers.AutoVideoProcessor.register(config, video_processor, exist_ok=True)
        video_processor.register_for_auto_class()
    if (feature_extractor := design.load("feature_extractor")) is not None:
        transformers.AutoFeatureExtractor.register(config, feature_extractor, exist_ok=True)

    config.register_for_auto_class()
    model.register_for_auto_class("AutoModel")
    generating_model.register_for_auto_class("AutoModelForImageTextToText")
    processor.register_for_auto_class()


def _register_encoder(encoder: Encoder) -> None:
    """Register an encoder that is part of a design, and that can also be loaded alone."""
    import transformers

    config, model = resolve_name(encoder.config), resolve_name(encoder.model)
    transformers.AutoConfig.register(encoder.name, config, exist_ok=True)
    transformers.AutoModel.register(config, model, exist_ok=True)
    config.register_for_auto_class()
    model.register_for_auto_class("AutoModel")
    if encoder.feature_extractor is not None:
        feature_extractor = resolve_name(encoder.feature_extractor)
        transformers.AutoFeatureExtractor.register(config, feature_extractor, exist_ok=True)
        feature_extractor.register_for_auto_class()


def _register_pipeline() -> None:
    import transformers
    from transformers.pipelines import PIPELINE_REGISTRY

    from .models.configuration_video_llm import PIPELINE_TASK
    from .models.pipeline_video_text_to_text import VideoTextToTextPipeline

    PIPELINE_REGISTRY.register_pipeline(
        PIPELINE_TASK,
        pipeline_class=VideoTextToTextPipeline,
        pt_model=(transformers.AutoModelForImageTextToText,),
        type="multimodal",
    )


__all__ = ["register_all", "register_design", "register_with_transformers"]
