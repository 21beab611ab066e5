"""The small VideoLLaMA2 of the package: its sizes, and how it is built before training.

Its vision tower and its language model have the sizes of the small PLLaVA's, whose weights they can take.
"""

from __future__ import annotations

import torch
from transformers import CLIPImageProcessor

from ...models.configuration_videollama2 import VideoLlama2Config
from ...models.modeling_videollama2 import VideoLlama2ForCausalLM
from ...models.processing_pllava import CHAT_TEMPLATE
from ...models.processing_videollama2 import VideoLlama2Processor, processor_options
from ...models.video_processing_videollama2 import VideoLlama2VideoProcessor
from .parts import build_tokenizer, square_sizes, start_linear_layers, tiny_towers

__all__ = ["build_tiny_videollama2"]


def build_tiny_videollama2(
    seed: int = 0,
    num_frames: int = 8,
    image_size: int = 64,
    patch_size: int = 8,
    vision_width: int = 96,
    vision_layers: int = 3,
    text_width: int = 128,
    text_layers: int = 4,
) -> tuple[VideoLlama2ForCausalLM, VideoLlama2Processor]:
    """Make the untrained small model and its processor. Vocabulary and sizes are those of the small PLLaVA.

    The connector is that of VideoLLaMA2.1 with RegStages of one block instead of four.

    Args:
        seed: seed of the initial weights; the global random state does not change.
        num_frames: frames sampled from a video.
        image_size: side of the frames the model sees, in pixels.
        patch_size: side of a patch in pixels.
        vision_width: width of the vision tower; heads are 32 wide.
        vision_layers: layers of the vision tower, all of which are used.
        text_width: width of the language model; heads are 32 wide.
        text_layers: layers of the language model.
    """
    tokenizer = build_tokenizer()
    towers, generation = tiny_towers(
        tokenizer, image_size, patch_size, vision_width, vision_layers, text_width, text_layers
    )
    config = VideoLlama2Config(
        **towers,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        num_frames=num_frames,
        connector_type="stc_connector_v35",
        connector_depth=1,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VideoLlama2ForCausalLM(config)
        start_linear_layers(model, "model.connector.readout")
    model.generation_config = generation
    sizes = square_sizes(image_size)
    processor = VideoLlama2Processor(
        image_processor=CLIPImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=VideoLlama2VideoProcessor(num_frames=num_frames, **sizes),
        # The layout that the small PLLaVA was trained on.
        chat_template=CHAT_TEMPLATE,
        **processor_options(config),
    )
    return model, processor
