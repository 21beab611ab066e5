"""The small FTFV of the package: its sizes, and how it is built before training.

Its vision tower and its language model have the sizes of the small PLLaVA's, whose weights they can take.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import CLIPImageProcessor

from ...models.configuration_ftfv import FtfvConfig
from ...models.modeling_ftfv import FtfvForConditionalGeneration
from ...models.processing_ftfv import FtfvProcessor, processor_options
from ...models.video_processing_ftfv import FtfvVideoProcessor
from .parts import build_tokenizer, tiny_towers

__all__ = ["build_tiny_ftfv", "generate_with"]


def build_tiny_ftfv(
    seed: int = 0,
    num_frames: int = 8,
    image_size: int = 64,
    patch_size: int = 8,
    num_queries: int = 16,
    num_tokens_per_frame: int = 4,
    vision_width: int = 96,
    vision_layers: int = 3,
    text_width: int = 128,
    text_layers: int = 4,
    adapter_width: int = 128,
) -> tuple[FtfvForConditionalGeneration, FtfvProcessor]:
    """Make the untrained small model and its processor. Vocabulary and sizes are those of the small PLLaVA.

    Args:
        seed: seed of the initial weights; the global random state does not change.
        num_frames: frames sampled from a video.
        image_size: side of the frames the model sees, in pixels.
        patch_size: side of a patch in pixels.
        num_queries: N, tokens of an image, and of a frame before the sampler; a square number.
        num_tokens_per_frame: K, tokens that the sampler leaves of each frame of a video.
        vision_width: width of the vision tower; heads are 32 wide.
        vision_layers: layers of the vision tower, all of which are used.
        text_width: width of the language model; heads are 32 wide.
        text_layers: layers of the language model.
        adapter_width: width of the cross-attention; heads are 32 wide.
    """
    tokenizer = build_tokenizer()
    towers, generation = tiny_towers(
        tokenizer, image_size, patch_size, vision_width, vision_layers, text_width, text_layers
    )
    config = FtfvConfig(
        **towers,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        num_frames=num_frames,
        num_queries=num_queries,
        num_tokens_per_frame=num_tokens_per_frame,
        adapter_width=adapter_width,
        adapter_num_heads=adapter_width // 32,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FtfvForConditionalGeneration(config)
        _start_adapter(model.model.connector)
    model.generation_config = generation
    sizes: dict[str, Any] = {"size": {"height": image_size, "width": image_size}, "do_center_crop": False}
    processor = FtfvProcessor(
        image_processor=CLIPImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=FtfvVideoProcessor(num_frames=num_frames, **sizes),
        **processor_options(config),
    )
    return model, processor


@contextmanager
def generate_with(model: Any, **options: Any) -> Iterator[None]:
    """Inside the `with` block, add options to every call of the model's `generate`, e.g. `num_tokens_per_frame=2`.

    Args:
        model: a model of this package with a head; its weights and configuration stay as they are.
        options: keyword arguments of `generate`.
    """
    model.generate = partial(type(model).generate, model, **options)
    try:
        yield
    finally:
        # Without the attribute of the object, `model.generate` is the method of its class again.
        del model.generate


def _start_adapter(connector: Any) -> None:
    """Draw the weights of the adapter so that the outputs of a layer are about as large as its inputs.

    The usual standard deviation of 0.02 suits widths of 2,000 and more. Here it would make all attention weights nearly
    equal: the sampler could not tell tokens apart, and the loss would not fall for a thousand steps.
    """
    for name, weight in connector.named_parameters():
        # A norm follows the queries, so their size does not matter.
        if weight.dim() == 2 and name not in ("query", "pos_embed"):
            # `proj` is stored as (inputs, outputs), the other weights as (outputs, inputs).
            fan_in = weight.shape[0] if name == "proj" else weight.shape[1]
            nn.init.normal_(weight, std=fan_in**-0.5)
    # It is added to states of the trained tower, whose standard deviation is 5. With 0.02, the adapter could not tell
    # the frames apart.
    nn.init.normal_(connector.temporal_embedding, std=2.0)
