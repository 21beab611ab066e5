"""FTFV (Fewer Tokens and Fewer Videos, Chen et al., 2024): vision tower, temporal code, adapter, sampler (Eq. 1, 2).

The vision tower and the adapter are those of Qwen-VL, from which the paper starts; they follow its public code
(`visual.py` of huggingface.co/Qwen/Qwen-VL), whose names the weights have. The temporal code is added to the patch
features of video frames, the sampler keeps the K queries of each frame with the largest attention weights.
"""

import itertools
import math

import numpy as np

from .blocks import Tensors, attention, gelu, linear, named_layer_norm, named_linear, weighted_sum
from .seeded import linear_shapes, norm_shapes, uniform, weights

SIZES = {
    "frames": 3,
    "image": 8,
    "patch": 2,
    "position_grid": 3,
    "vision_width": 8,
    "vision_heads": 2,
    "vision_inner": 12,
    "vision_layers": 2,
    "width": 16,
    "adapter_heads": 2,
    "query_grid": 3,
    "kept": 4,
    "code_frames": 3,
    "long_frames": 5,
}
NORM_EPS = 1e-6
CUBIC = -0.75  # the free parameter of the bicubic kernel, as in PyTorch


def cubic(distance: float) -> float:
    """Keys' cubic convolution kernel."""
    x = abs(distance)
    if x <= 1:
        return (CUBIC + 2) * x**3 - (CUBIC + 3) * x**2 + 1
    if x < 2:
        return CUBIC * (x**3 - 5 * x**2 + 8 * x - 4)
    return 0.0


def resize_axis(source: int, target: int) -> np.ndarray:
    """Weights `(target, source)` of a bicubic resize of one axis: pixel centres match, the border is repeated."""
    matrix = np.zeros((target, source))
    for place in range(target):
        at = (place + 0.5) * source / target - 0.5
        for neighbour in range(math.floor(at) - 1, math.floor(at) + 3):
            matrix[place, min(max(neighbour, 0), source - 1)] += cubic(at - neighbour)
    return matrix


def resize_positions(table: np.ndarray, side: int) -> np.ndarray:
    """A square table of positions `(s * s, D)`, row by row, for a grid of another side."""
    source = math.isqrt(len(table))
    if source == side:
        return table
    axis = resize_axis(source, side)
    out = np.empty((side * side, table.shape[1]))
    for row, column in np.ndindex(side, side):
        shares = [axis[row, i] * axis[column, j] for i in range(source) for j in range(source)]
        out[row * side + column] = weighted_sum(shares, table)
    return out


def sine_positions(side: int, width: int) -> np.ndarray:
    """The fixed 2D code: half of the channels for the column, half for the row; in each, sines before cosines."""
    quarter = width // 4
    out = np.empty((side * side, width))
    for row, column in np.ndindex(side, side):
        for half, place in enumerate((column, row)):
            for i in range(quarter):
                angle = place * 10000.0 ** (-i / quarter)
                out[row * side + column, 2 * half * quarter + i] = math.sin(angle)
                out[row * side + column, (2 * half + 1) * quarter + i] = math.cos(angle)
    return out


def split_heads(weight: np.ndarray, heads: int) -> list[np.ndarray]:
    """Query, key and value rows of the tower's fused projection, which holds q, k, v of head 0, then of head 1."""
    width = len(weight) // (3 * heads)
    return [
        np.concatenate([weight[(3 * head + part) * width : (3 * head + part + 1) * width] for head in range(heads)])
        for part in range(3)
    ]


def vision_tower(image: np.ndarray, w: Tensors) -> np.ndarray:
    """Patch features `(M, D)` of one image `(3, S, S)`: no class token, no norm after the last block."""
    side = SIZES["image"] // SIZES["patch"]
    kernel = w["conv1.weight"].reshape(SIZES["vision_width"], -1)
    patches = image.reshape(3, side, SIZES["patch"], side, SIZES["patch"]).transpose(1, 3, 0, 2, 4)
    x = linear(patches.reshape(side * side, -1), kernel)
    x = named_layer_norm(x + resize_positions(w["positional_embedding"], side), w, "ln_pre", NORM_EPS)
    heads = SIZES["vision_heads"]
    for number in range(SIZES["vision_layers"]):
        name = f"transformer.resblocks.{number}"
        normed = named_layer_norm(x, w, f"{name}.ln_1", NORM_EPS)
        parts = zip(
            split_heads(w[f"{name}.attn.in_proj.weight"], heads),
            split_heads(w[f"{name}.attn.in_proj.bias"], heads),
            strict=True,
        )
        mixed, _ = attention(*(linear(normed, weight, bias) for weight, bias in parts), heads)
        x = x + named_linear(mixed, w, f"{name}.attn.out_proj")
        normed = named_layer_norm(x, w, f"{name}.ln_2", NORM_EPS)
        x = x + named_linear(gelu(named_linear(normed, w, f"{name}.mlp.c_fc")), w, f"{name}.mlp.c_proj")
    return x


def temporal_code(table: np.ndarray, frames: int) -> np.ndarray:
    """E of section 3.2, stretched to another number of frames by lines between its rows; one frame takes the first."""
    if frames == 1:
        return table[:1]
    out = np.empty((frames, table.shape[1]))
    for frame in range(frames):
        at = frame * (len(table) - 1) / (frames - 1)
        low = min(math.floor(at), len(table) - 2)
        out[frame] = table[low] * (low + 1 - at) + table[low + 1] * (at - low)
    return out


def adapter(patches: np.ndarray, w: Tensors) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 1, one cross-attention: N tokens of a frame, and the attention weights `(heads, N, M)`.

    Keys carry positions, values do not. The positions of the keys are those of the queries, resized.
    """
    positions = sine_positions(SIZES["query_grid"], SIZES["width"])
    source = named_layer_norm(linear(patches, w["attn_pool.kv_proj.weight"]), w, "attn_pool.ln_kv", NORM_EPS)
    queries = named_layer_norm(w["attn_pool.query"], w, "attn_pool.ln_q", NORM_EPS) + positions
    keys = source + resize_positions(positions, math.isqrt(len(source)))
    weight, bias = w["attn_pool.attn.in_proj_weight"], w["attn_pool.attn.in_proj_bias"]
    projected = []
    for part, rows in enumerate((queries, keys, source)):
        at = slice(part * SIZES["width"], (part + 1) * SIZES["width"])
        projected.append(linear(rows, weight[at], bias[at]))
    mixed, weights_ = attention(*projected, SIZES["adapter_heads"])
    tokens = named_layer_norm(named_linear(mixed, w, "attn_pool.attn.out_proj"), w, "ln_post", NORM_EPS)
    # Qwen-VL multiplies by `proj` itself, not by its transpose.
    return linear(tokens, w["proj"].T), weights_


def responses(weights_: np.ndarray, reduction: str) -> np.ndarray:
    """r of Eq. 2: the largest attention weight of each query over the patches.

    Before that, the heads are averaged ("mean") or the largest of them counts ("max").
    """
    heads, queries, patches = weights_.shape
    out = np.empty(queries)
    for query in range(queries):
        columns = [weights_[:, query, patch].tolist() for patch in range(patches)]
        out[query] = max(max(column) if reduction == "max" else math.fsum(column) / heads for column in columns)
    return out


def sample(tokens: np.ndarray, r: np.ndarray, kept: int, order: str) -> np.ndarray:
    """Eq. 2: the K tokens with the largest r, in falling order of r, or in the order of the queries."""
    ranked = sorted(range(len(r)), key=lambda query: (-r[query], query))[:kept]
    return tokens[sorted(ranked) if order == "query" else ranked]


def shapes() -> dict[str, tuple[int, ...]]:
    size = SIZES
    vision, width = size["vision_width"], size["width"]
    result: dict[str, tuple[int, ...]] = {
        "conv1.weight": (vision, 3, size["patch"], size["patch"]),
        "positional_embedding": (size["position_grid"] ** 2, vision),
    }
    result |= norm_shapes("ln_pre", vision)
    for number in range(size["vision_layers"]):
        name = f"transformer.resblocks.{number}"
        result |= norm_shapes(f"{name}.ln_1", vision) | norm_shapes(f"{name}.ln_2", vision)
        result |= linear_shapes(f"{name}.attn.in_proj", vision, 3 * vision)
        result |= linear_shapes(f"{name}.attn.out_proj", vision, vision)
        result |= linear_shapes(f"{name}.mlp.c_fc", vision, size["vision_inner"])
        result |= linear_shapes(f"{name}.mlp.c_proj", size["vision_inner"], vision)
    result |= {"temporal_encoding": (size["code_frames"], vision)}
    result |= {"attn_pool.query": (size["query_grid"] ** 2, width)}
    result |= linear_shapes("attn_pool.kv_proj", vision, width, bias=False)
    result |= norm_shapes("attn_pool.ln_q", width) | norm_shapes("attn_pool.ln_kv", width)
    result |= {"attn_pool.attn.in_proj_weight": (3 * width, width), "attn_pool.attn.in_proj_bias": (3 * width,)}
    result |= linear_shapes("attn_pool.attn.out_proj", width, width) | norm_shapes("ln_post", width)
    return result | {"proj": (width, width)}


def make() -> tuple[Tensors, dict[str, object]]:
    """All tensors of the file, and the sizes that go with them."""
    size = SIZES
    w = weights("ftfv", shapes())
    # A sharper attention than that of random weights, so that the responses differ clearly.
    w["attn_pool.attn.in_proj_weight"] = w["attn_pool.attn.in_proj_weight"] * 2
    tensors = {f"weights.{name}": tensor for name, tensor in w.items()}
    frames = uniform("ftfv/frames", (size["frames"], 3, size["image"], size["image"]), 2.0)
    patches = np.stack([vision_tower(frame, w) for frame in frames])
    tensors |= {"inputs.frames": frames, "outputs.patches": patches}
    positions = sine_positions(size["query_grid"], size["width"])
    tensors["intermediate.query_positions"] = positions
    tensors["intermediate.key_positions"] = resize_positions(positions, size["image"] // size["patch"])
    tensors["intermediate.temporal_code_long"] = temporal_code(w["temporal_encoding"], size["long_frames"])
    code = temporal_code(w["temporal_encoding"], size["frames"])
    results = [adapter(patches[frame] + code[frame], w) for frame in range(size["frames"])]
    tensors["intermediate.video_attention"] = np.stack([weights_ for _, weights_ in results])
    tensors["outputs.video_tokens"] = np.stack([tokens for tokens, _ in results])
    for reduction in ("mean", "max"):
        ranks = [responses(weights_, reduction) for _, weights_ in results]
        for r in ranks:
            check_margin(r)
        tensors[f"intermediate.responses.{reduction}"] = np.stack(ranks)
        for order in ("score", "query"):
            # Frames follow each other in time, without separators: T K tokens.
            tensors[f"outputs.sampled.{reduction}.{order}"] = np.concatenate(
                [sample(tokens, r, size["kept"], order) for (tokens, _), r in zip(results, ranks, strict=True)]
            )
    # An image gets no temporal code and keeps all its tokens.
    tensors["outputs.image_tokens"] = adapter(patches[0], w)[0]
    return tensors, dict(size)


def check_margin(r: np.ndarray) -> None:
    """Refuse inputs whose order hangs on the last digits: models compute these weights in float32."""
    ordered = sorted(r.tolist())
    if min(high - low for low, high in itertools.pairwise(ordered)) < 1e-5:
        raise ValueError("two responses are too close: choose another seed")
