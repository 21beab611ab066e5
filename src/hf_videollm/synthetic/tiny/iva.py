"""The small IVA of the package: its vocabulary, its sizes, its initial weights, and how its vision tower learns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import nn
from torch.nn import functional as F
from transformers import CLIPImageProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ...models.configuration_iva import IvaConfig
from ...models.modeling_iva import IvaForConditionalGeneration
from ...models.processing_iva import QUERY_TOKEN, IvaProcessor, processor_options
from ...models.video_processing_iva import IvaVideoProcessor
from ..long import BACKDROPS, LONG_TEMPLATES, LongScene, Shot, render_long_scene
from ..scene import COLOURS, SHAPES
from .parts import build_tokenizer, square_sizes, start_with_positions, tiny_towers, words_in

__all__ = ["build_tiny_iva", "iva_vocabulary", "train_tower"]

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<video>", QUERY_TOKEN)
# A patch shows a shape if its centre is at most this many radii away from the centre of the shape.
COVERED = 0.9
# Weight of the loss term that keeps the features of the tower uncorrelated.
PENALTY = 0.3


def iva_vocabulary() -> list[str]:
    """Every token of the small model: special tokens, then the words of the chat, the questions and the answers."""
    templates = " ".join(template for texts in LONG_TEMPLATES.values() for template in texts)
    words = set(words_in(re.sub(r"{\w+}", "", templates)))
    words |= {"user", "assistant", ":", "grey", *COLOURS, *SHAPES}
    return [*SPECIAL_TOKENS, *sorted(words)]


def build_tiny_iva(
    seed: int = 0,
    num_insertions: int = 4,
    num_query_tokens: int = 2,
    num_adapter_layers: int = 1,
    image_size: int = 64,
    patch_size: int = 8,
    vision_width: int = 64,
    vision_layers: int = 3,
    text_width: int = 64,
    text_layers: int = 4,
    adapter_width: int = 64,
) -> tuple[IvaForConditionalGeneration, IvaProcessor]:
    """Make the untrained small model and its processor.

    Tower, connector and language model have the same initial weights with and without adapter.

    Args:
        seed: seed of the initial weights; the global random state does not change.
        num_insertions: decoder layers before which the adapter is called; 0 is the model without IVA.
        num_query_tokens: M, query tokens before an answer.
        num_adapter_layers: pairs of selector and interactor.
        image_size: side of the frames the model sees, in pixels.
        patch_size: side of a patch in pixels.
        vision_width: width of the vision tower; heads are 32 wide.
        vision_layers: layers of the vision tower, all of which are used.
        text_width: width of the language model; heads are 32 wide.
        text_layers: layers of the language model.
        adapter_width: width of the adapter.
    """
    tokenizer = build_tokenizer(iva_vocabulary(), ["<image>", "<video>", QUERY_TOKEN])
    towers, generation = tiny_towers(
        tokenizer, image_size, patch_size, vision_width, vision_layers, text_width, text_layers
    )
    config = IvaConfig(
        **towers,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        query_token_id=tokenizer.convert_tokens_to_ids(QUERY_TOKEN),
        num_query_tokens=num_query_tokens,
        num_insertions=num_insertions,
        adapter_hidden_size=adapter_width,
        num_adapter_layers=num_adapter_layers,
        # Query tokens before every answer: several questions about a video then train the adapter for the cost of
        # encoding its frames once.
        query_placement="every",
        frames_per_chunk=None,
        causal_num_layers=2,
        causal_num_heads=vision_width // 32,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = IvaForConditionalGeneration(config)
        torch.manual_seed(seed)
        _start(model.model, image_size // patch_size)
    model.generation_config = generation
    sizes = square_sizes(image_size)
    processor = IvaProcessor(
        image_processor=CLIPImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=IvaVideoProcessor(**sizes),
        **processor_options(config),
    )
    return model, processor


def _start(model: Any, side: int) -> None:
    """Draw initial weights that suit so small a width; those of the adapter last, so that the others are the same
    with and without it.

    The usual standard deviation of 0.02 suits widths of 2,000 and more: here, the layers of language model and adapter
    would hardly change their inputs. Only the projections before a softmax stay small, so that attention starts almost
    uniform.
    """
    start_with_positions(model.vision_tower, side)
    width = model.config.text_config.hidden_size
    for name, weight in model.language_model.named_parameters():
        if weight.dim() == 2:
            nn.init.normal_(weight, std=0.1 if "embed_tokens" in name else 0.5 * width**-0.5)
    _draw(model.connector.pooling.weight, 1.0)
    for layer in model.connector.causal_layers:
        for linear in (layer.qkv, layer.out, layer.mlp[0], layer.mlp[2]):
            _draw(linear, 0.6)
    # Visual tokens become about as large as the embeddings of words.
    _draw(model.connector.temporal, 0.3)
    _draw(model.connector.global_mlp[0], 1.0)
    _draw(model.connector.global_mlp[2], 0.3)
    if not model.config.num_insertions:
        return
    nn.init.normal_(model.query_tokens.weight, std=0.2)
    for pair in model.adapter.layers:
        _draw(pair.interactor.query, 0.3)
        _draw(pair.interactor.key, 0.3)
        _draw(pair.interactor.value, 1.0)


def _draw(linear: Any, gain: float) -> None:
    nn.init.normal_(linear.weight, std=gain * linear.weight.shape[1] ** -0.5)


def train_tower(
    vision_tower: Any,
    scenes: Sequence[LongScene],
    num_steps: int = 900,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, float]:
    """Train a vision tower to tell which shapes are where in a picture, as a pretrained tower of the usual size can.

    Linear heads, which are thrown away after training, predict the colour and the form of the shape from each patch
    that shows one, and the backdrop from the class token. The features are kept uncorrelated, with mean 0 and variance
    1, so that the model that is trained on them later learns several times faster.

    Args:
        vision_tower: a CLIP tower with a class token; changed in place.
        scenes: one frame of every shot is used. The last tenth is held out.
        num_steps: training steps.
        batch_size: frames of a step.
        learning_rate: highest one of a one-cycle schedule.
        seed: of the heads' weights and of the order of the frames; the global random state does not change.
        progress: show a progress bar.

    Returns:
        Accuracies of the heads on held-out frames: "colour" and "shape" over patches that show a shape, and "backdrop".
    """
    side = vision_tower.config.image_size // vision_tower.config.patch_size
    pixels, colours, shapes, backdrops = _labelled_frames(scenes, side, vision_tower.config.image_size)
    width, known = vision_tower.config.hidden_size, len(pixels) * 9 // 10
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        heads = nn.ModuleList([nn.Linear(width, len(names)) for names in ([*COLOURS, ""], SHAPES, [*BACKDROPS, ""])])
        parameters = [*(weight for weight in vision_tower.parameters() if weight.requires_grad), *heads.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, num_steps, pct_start=0.1)
        vision_tower.train()
        for _ in track(range(num_steps), description="Training the tower", disable=not progress):
            rows = torch.randint(0, known, (batch_size,))
            tokens = _features(vision_tower, pixels[rows])
            patches, of_frame = tokens[:, 1:], tokens[:, 0]
            loss = F.cross_entropy(heads[0](patches).flatten(0, 1), colours[rows].flatten())
            loss = loss + F.cross_entropy(heads[1](patches).flatten(0, 1), shapes[rows].flatten())
            loss = loss + F.cross_entropy(heads[2](of_frame), backdrops[rows])
            loss = loss + PENALTY * _correlation(patches.flatten(0, 1), of_frame)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
    vision_tower.eval()
    shown = shapes[known:] >= 0
    with torch.no_grad():
        tokens = torch.cat([_features(vision_tower, part) for part in pixels[known:].split(batch_size)])
        colour, shape = heads[0](tokens[:, 1:]).argmax(-1), heads[1](tokens[:, 1:]).argmax(-1)
        backdrop = heads[2](tokens[:, 0]).argmax(-1)
    return {
        "colour": (colour == colours[known:])[shown].float().mean().item(),
        "shape": (shape == shapes[known:])[shown].float().mean().item(),
        "backdrop": (backdrop == backdrops[known:]).float().mean().item(),
    }


def _features(vision_tower: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The features that the model reads from the tower: all tokens of its last layer, `(frames, tokens, width)`."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    outputs = vision_tower(pixel_values=(pixels.float() / 255 - mean) / std, output_hidden_states=True)
    tokens: torch.Tensor = outputs.hidden_states[-1]
    return tokens


def _correlation(patches: torch.Tensor, of_frame: torch.Tensor) -> torch.Tensor:
    """How far the features are from mean 0 and variance 1, and those of patches from being uncorrelated."""
    mean = patches.mean(0)
    centred = patches - mean
    covariance = centred.T @ centred / len(patches)
    off = (covariance - torch.eye(len(covariance))).square().sum() / len(covariance)
    return off + mean.square().mean() + of_frame.mean(0).square().mean() + (of_frame.var(0) - 1).square().mean()


def _labelled_frames(
    scenes: Sequence[LongScene], side: int, size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first frame of every shot, with labels.

    Returns:
        Pixels (frames, 3, size, size) uint8; colours (frames, patches), where the number after the last colour means
        that the patch shows no shape; shapes (frames, patches), -100 where there is none; backdrops (frames,), where
        the number after the last one means grey.
    """
    pixels, colours, shapes, backdrops = [], [], [], []
    for scene in scenes:
        frames = render_long_scene(scene, size)
        for shot in scene.shots:
            pixels.append(frames[shot.first_frame])
            of_colours, of_shapes = _patch_labels(shot, side)
            colours.append(of_colours)
            shapes.append(of_shapes)
            backdrops.append(len(BACKDROPS) if shot.backdrop is None else BACKDROPS.index(shot.backdrop))
    return (
        torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack(colours)),
        torch.from_numpy(np.stack(shapes)),
        torch.tensor(backdrops),
    )


def _patch_labels(shot: Shot, side: int) -> tuple[np.ndarray, np.ndarray]:
    colours, shapes = np.full((side, side), len(COLOURS)), np.full((side, side), -100)
    middles = (np.arange(side) + 0.5) / side
    for sprite in shot.sprites:
        x, y = sprite.centres[0]
        covered = np.maximum(abs(middles[None] - x), abs(middles[:, None] - y)) < COVERED * sprite.radius
        colours[covered], shapes[covered] = list(COLOURS).index(sprite.colour), SHAPES.index(sprite.shape)
    return colours.ravel(), shapes.ravel()
