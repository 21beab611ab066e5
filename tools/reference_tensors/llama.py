"""A LLaMA language model (Touvron et al., 2023), small enough for plain loops: no padding, no cache."""

import math
from collections.abc import Callable

import numpy as np

from .blocks import Tensors, attention, dot, linear, silu
from .seeded import linear_shapes

ROPE_THETA = 10000.0
NORM_EPS = 1e-6

Linear = Callable[[np.ndarray, str], np.ndarray]


def shapes(vocab: int, width: int, inner: int, layers: int, heads: int, kv_heads: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights, with the names of the public checkpoints."""
    kv_width = width // heads * kv_heads
    result: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (vocab, width)}
    for layer in range(layers):
        name = f"layers.{layer}"
        for part, sizes in {
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (width, kv_width),
            "self_attn.v_proj": (width, kv_width),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (width, inner),
            "mlp.up_proj": (width, inner),
            "mlp.down_proj": (inner, width),
        }.items():
            result |= linear_shapes(f"{name}.{part}", *sizes, bias=False)
        result |= {f"{name}.input_layernorm.weight": (width,), f"{name}.post_attention_layernorm.weight": (width,)}
    return result | {"norm.weight": (width,), "lm_head.weight": (vocab, width)}


def rms_norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    for index, row in enumerate(x):
        out[index] = row / math.sqrt(dot(row, row) / len(row) + NORM_EPS) * weight
    return out


def rotate(x: np.ndarray, num_heads: int) -> np.ndarray:
    """Rotary position code: channels i and i + width/2 of a head turn together by position * theta^(-2i/width)."""
    out = np.empty_like(x)
    width = x.shape[1] // num_heads
    half = width // 2
    for position in range(len(x)):
        for head in range(num_heads):
            for i in range(half):
                first, second = head * width + i, head * width + half + i
                angle = position * ROPE_THETA ** (-2 * i / width)
                cosine, sine = math.cos(angle), math.sin(angle)
                out[position, first] = x[position, first] * cosine - x[position, second] * sine
                out[position, second] = x[position, second] * cosine + x[position, first] * sine
    return out


def _repeat_heads(x: np.ndarray, kv_heads: int, heads: int) -> np.ndarray:
    """Grouped-query attention: each key and value head serves `heads / kv_heads` query heads that follow each other."""
    width = x.shape[1] // kv_heads
    return np.concatenate([x[:, (head * kv_heads // heads) * width :][:, :width] for head in range(heads)], axis=1)


def decode(
    embeddings: np.ndarray,
    weights: Tensors,
    heads: int,
    kv_heads: int,
    before_layer: Callable[[int, np.ndarray], np.ndarray] = lambda layer, x: x,
    project: Linear | None = None,
) -> np.ndarray:
    """Logits `(S, vocab)` of one sequence of embeddings `(S, H)`.

    Args:
        before_layer: changes the hidden states that layer number `layer` reads.
        project: the linear layers of the blocks, by name; the plain ones by default.
    """
    project = project or (lambda x, name: linear(x, weights[f"{name}.weight"]))
    x = embeddings
    layers = sum(name.endswith("q_proj.weight") for name in weights if name.startswith("layers."))
    for layer in range(layers):
        name = f"layers.{layer}"
        x = before_layer(layer, x)
        normed = rms_norm(x, weights[f"{name}.input_layernorm.weight"])
        mixed, _ = attention(
            rotate(project(normed, f"{name}.self_attn.q_proj"), heads),
            _repeat_heads(rotate(project(normed, f"{name}.self_attn.k_proj"), kv_heads), kv_heads, heads),
            _repeat_heads(project(normed, f"{name}.self_attn.v_proj"), kv_heads, heads),
            heads,
            allowed=lambda query, key: key <= query,
        )
        x = x + project(mixed, f"{name}.self_attn.o_proj")
        normed = rms_norm(x, weights[f"{name}.post_attention_layernorm.weight"])
        gated = silu(project(normed, f"{name}.mlp.gate_proj")) * project(normed, f"{name}.mlp.up_proj")
        x = x + project(gated, f"{name}.mlp.down_proj")
    return linear(rms_norm(x, weights["norm.weight"]), weights["lm_head.weight"])
