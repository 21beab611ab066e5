"""The processor follows the configuration of the model, in every design, also where it is changed for a training."""

from typing import Any

import pytest
from transformers import AutoProcessor

from hf_videollm.models.processing_ftfv import FtfvProcessor
from hf_videollm.models.processing_iva import IvaProcessor
from hf_videollm.models.processing_pllava import PllavaProcessor
from hf_videollm.models.processing_videollama2 import VideoLlama2Processor
from hf_videollm.models.processing_videollama2_av import VideoLlama2AVProcessor
from hf_videollm.training.loading import load_for_training

PROCESSORS = (PllavaProcessor, VideoLlama2Processor, VideoLlama2AVProcessor, FtfvProcessor, IvaProcessor)
# Checkpoint, a change of its configuration that needs no other weights.
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "pllava": ("tiny_checkpoint", {"pooling_shape": [1, 2, 2]}),
    "videollama2_av": ("tiny_av_checkpoint", {"num_frames": 6}),
    "ftfv": ("tiny_ftfv_checkpoint", {"num_tokens_per_frame": 1}),
    "iva": ("tiny_iva_checkpoint", {"image_temporal_token": False}),
}


@pytest.mark.parametrize("processor_class", PROCESSORS)
def test_every_processor_says_what_it_takes_from_a_configuration(processor_class: Any) -> None:
    assert "options_from_config" in vars(processor_class), "its own, not that of the class it is made from"


@pytest.mark.parametrize("design", CHANGES)
def test_the_processor_follows(design: str, request: pytest.FixtureRequest) -> None:
    fixture, change = CHANGES[design]
    source = request.getfixturevalue(fixture)
    model, processor = load_for_training(source, change)
    before = AutoProcessor.from_pretrained(source)
    options = processor.options_from_config(model.config)
    assert options
    assert all(getattr(processor, name) == value for name, value in options.items())
    assert any(getattr(before, name) != value for name, value in options.items()), "Control: something changed"
    assert processor.num_video_tokens(4) == model.config.num_video_tokens(4)
    assert processor.num_image_tokens() == model.config.num_image_tokens()


def test_videollama2_av_follows_its_audio_tower(tiny_av_checkpoint: str) -> None:
    """Its parent class knows nothing of sound; its options alone would leave the patches of sounds as they were."""
    model, processor = load_for_training(tiny_av_checkpoint, {"num_frames": 6})
    config = model.config
    config.audio_config.patch_size = 8
    assert processor.options_from_config(config)["audio_patch_size"] == 8
    assert "audio_patch_size" not in VideoLlama2Processor.options_from_config(config)
