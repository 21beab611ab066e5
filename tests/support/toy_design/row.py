"""The row of the toy design in the table of designs."""

from hf_videollm import Design

ROW = Design(
    name="mean",
    config="hf_videollm.models.configuration_mean:MeanConfig",
    model="hf_videollm.models.modeling_mean:MeanModel",
    generating_model="hf_videollm.models.modeling_mean:MeanForConditionalGeneration",
    processor="hf_videollm.models.processing_mean:MeanProcessor",
    video_processor="hf_videollm.models.video_processing_mean:MeanVideoProcessor",
    title="Mean",
    paper="none",
    next_step="train the connector alone on image-text pairs",
)
