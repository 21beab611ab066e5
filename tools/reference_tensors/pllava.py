"""PLLaVA (Xu et al., 2024): projector, adaptive pooling (Eq. 2), order of the tokens, mixing by LoRA (Eq. 3).

The vision tower is not written here: the reference begins at the hidden states that the design reads from it. What the
paper leaves open follows the authors' code (github.com/magic-research/PLLaVA): the class token is dropped, the
projector runs before the pooling, and LoRA changes `q_proj` and `v_proj` of the language model.
"""

import math

import numpy as np

from . import llama
from .blocks import Tensors, gelu, linear, named_linear
from .seeded import linear_shapes, uniform, weights

SIZES = {
    "frames": 4,
    "grid": 6,
    "vision_width": 6,
    "width": 16,
    "inner": 24,
    "vocab": 24,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "lora_rank": 2,
    "image_token_id": 20,
    "videos": 2,
}
# Time, height and width after the pooling; the language model reads the first. From 6 to 4 the windows overlap, from 6
# to 3 they do not. The second shape has more places than the input, which copies some. The last keeps everything: the
# n-frame method of Eq. 1.
POOLING_SHAPES = [(3, 4, 2), (5, 3, 7), (2, 3, 3), (4, 6, 6)]
LORA_ALPHAS = [0.0, 4.0, 32.0]
# One prompt of a batch row; 20 is the placeholder of the video.
PROMPT = [1, 5, 20, 7, 11, 2]


def projector(x: np.ndarray, w: Tensors) -> np.ndarray:
    """The two linear layers of LLaVA with an exact GELU between them."""
    return named_linear(gelu(named_linear(x, w, "projector.linear_1")), w, "projector.linear_2")


def window(index: int, size: int, target: int) -> range:
    """Input places that output place `index` of `target` averages: from the floor to the ceiling of its share."""
    return range(math.floor(index * size / target), math.ceil((index + 1) * size / target))


def adaptive_pool(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """AdaptStructPooling of Eq. 2: `(T, h, w, d)` to `(T', h', w', d)`, each output the mean of its window."""
    out = np.empty((*shape, x.shape[-1]))
    for t, h, w in np.ndindex(*shape):
        places = [
            x[i, j, k]
            for i in window(t, x.shape[0], shape[0])
            for j in window(h, x.shape[1], shape[1])
            for k in window(w, x.shape[2], shape[2])
        ]
        for channel in range(x.shape[-1]):
            out[t, h, w, channel] = math.fsum(place[channel] for place in places) / len(places)
    return out


def connect(hidden_states: np.ndarray, w: Tensors, shape: tuple[int, ...]) -> np.ndarray:
    """Tokens `(videos, T' h' w', width)` of hidden states `(videos * frames, 1 + h w, vision_width)`."""
    frames, grid = SIZES["frames"], SIZES["grid"]
    projected = projector(hidden_states[:, 1:], w)
    tokens = []
    for video in range(len(hidden_states) // frames):
        block = projected[video * frames : (video + 1) * frames].reshape(frames, grid, grid, -1)
        # Flattened with the width running fastest, then the height, then the time.
        tokens.append(adaptive_pool(block, shape).reshape(-1, block.shape[-1]))
    return np.stack(tokens)


def merge(prompt: list[int], tokens: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """The embedded prompt, in which all tokens of the video stand in the place of its one placeholder."""
    rows: list[np.ndarray] = []
    for token_id in prompt:
        rows.extend(tokens if token_id == SIZES["image_token_id"] else [embeddings[token_id]])
    return np.stack(rows)


def logits(embedded: np.ndarray, w: Tensors, alpha: float) -> np.ndarray:
    """The language model whose query and value layers are `W0 x + (alpha / r) B A x` (Eq. 3)."""

    def project(x: np.ndarray, name: str) -> np.ndarray:
        out = linear(x, w[f"{name}.weight"])
        if f"{name}.lora_A" not in w:
            return out
        return out + alpha / SIZES["lora_rank"] * linear(linear(x, w[f"{name}.lora_A"]), w[f"{name}.lora_B"])

    return llama.decode(embedded, w, SIZES["heads"], SIZES["kv_heads"], project=project)


def make() -> tuple[Tensors, dict[str, object]]:
    """All tensors of the file, and the sizes that go with them."""
    size = SIZES
    shapes = linear_shapes("projector.linear_1", size["vision_width"], size["width"])
    shapes |= linear_shapes("projector.linear_2", size["width"], size["width"])
    shapes |= llama.shapes(size["vocab"], size["width"], size["inner"], size["layers"], size["heads"], size["kv_heads"])
    for name in [name for name in shapes if "q_proj" in name or "v_proj" in name]:
        stem = name.removesuffix(".weight")
        shapes |= {f"{stem}.lora_A": (size["lora_rank"], size["width"])}
        shapes |= {f"{stem}.lora_B": (shapes[name][0], size["lora_rank"])}
    w = weights("pllava", shapes)
    rows = size["videos"] * size["frames"]
    hidden_states = uniform("pllava/hidden_states", (rows, 1 + size["grid"] ** 2, size["vision_width"]), 2.0)
    tensors = {f"weights.{name}": tensor for name, tensor in w.items()} | {"inputs.hidden_states": hidden_states}
    tensors["intermediate.projected"] = projector(hidden_states[:1, 1:4], w)
    for shape in POOLING_SHAPES:
        # The shape that keeps everything is large; its first video says as much as both.
        videos = 1 if shape == POOLING_SHAPES[-1] else size["videos"]
        tokens = connect(hidden_states[: videos * size["frames"]], w, shape)
        tensors["outputs.tokens." + "x".join(map(str, shape))] = tokens
    tokens = tensors["outputs.tokens." + "x".join(map(str, POOLING_SHAPES[0]))]
    embedded = np.stack([merge(PROMPT, video, w["embed_tokens.weight"]) for video in tokens])
    tensors["intermediate.embedded"] = embedded
    for alpha in LORA_ALPHAS:
        tensors[f"outputs.logits.alpha_{alpha:g}"] = np.stack([logits(row, w, alpha) for row in embedded])
    return tensors, size | {"prompt": PROMPT, "pooling_shapes": POOLING_SHAPES, "lora_alphas": LORA_ALPHAS}
