"""The small PLLaVA of the package: its sizes, and how it is built before training.

The names that the tiny models share come from `parts.py`; programs import them from here, too.
"""

import torch
from transformers import CLIPImageProcessor

from ...models.configuration_pllava import PllavaConfig
from ...models.modeling_pllava import PllavaForConditionalGeneration
from ...models.processing_pllava import PllavaProcessor
from ...models.video_processing_pllava import PllavaVideoProcessor
from .parts import (
    KINDS_OF_QUESTIONS,
    SPECIAL_TOKENS,
    TEMPLATE_WORDS,
    build_tokenizer,
    square_sizes,
    start_with_positions,
    take_over_weights,
    tiny_towers,
    vocabulary,
    words_of,
)


def build_tiny_pllava(
    seed: int = 0,
    num_frames: int = 8,
    image_size: int = 64,
    patch_size: int = 8,
    pooling_shape: tuple[int, int, int] = (8, 4, 4),
    vision_width: int = 96,
    vision_layers: int = 3,
    text_width: int = 128,
    text_layers: int = 4,
) -> tuple[PllavaForConditionalGeneration, PllavaProcessor]:
    """Make the untrained small model and its processor.

    Args:
        seed: seed of the initial weights; the global random state does not change.
        num_frames: frames sampled from a video.
        image_size: side of the frames the model sees, in pixels.
        patch_size: side of a patch in pixels.
        pooling_shape: (time, height, width) of the visual tokens.
        vision_width: width of the vision tower; heads are 32 wide.
        vision_layers: layers of the vision tower. The features are those of the last layer; PLLaVA's own choice, the
            last but one, would leave a third of so small a tower unused.
        text_width: width of the language model; heads are 32 wide.
        text_layers: layers of the language model.
    """
    tokenizer = build_tokenizer()
    towers, generation = tiny_towers(
        tokenizer, image_size, patch_size, vision_width, vision_layers, text_width, text_layers
    )
    config = PllavaConfig(
        **towers,
        image_token_id=SPECIAL_TOKENS.index("<image>"),
        video_token_id=SPECIAL_TOKENS.index("<video>"),
        num_frames=num_frames,
        pooling_shape=list(pooling_shape),
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PllavaForConditionalGeneration(config)
    start_with_positions(model.model.vision_tower, image_size // patch_size)
    model.generation_config = generation
    sizes = square_sizes(image_size)
    processor = PllavaProcessor(
        image_processor=CLIPImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=PllavaVideoProcessor(num_frames=num_frames, **sizes),
        pooling_shape=list(pooling_shape),
    )
    return model, processor


__all__ = [
    "KINDS_OF_QUESTIONS",
    "SPECIAL_TOKENS",
    "TEMPLATE_WORDS",
    "build_tiny_pllava",
    "build_tokenizer",
    "square_sizes",
    "start_with_positions",
    "take_over_weights",
    "tiny_towers",
    "vocabulary",
    "words_of",
]
