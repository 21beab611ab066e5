"""IVA (Interactive Visual Adapter, Li et al., 2024): two tokens per frame (Eq. 1 and 2) and the adapter (Eq. 3 and 4).

There is no public code. Where the paper is silent the reference decides as this package does: the class token is the
global feature of a frame; the frame positions are sinusoidal, sines before cosines; the MLP of Eq. 2 has a residual; a
LayerNorm and a matrix come before the adapter's pairs, a matrix after them; the tokens of the frames are interleaved.
Eq. 3 and 4 are computed literally: every patch of every frame goes through `Trans`, `W2` and `W3`.
"""

import math

import numpy as np

from . import llama
from .blocks import (
    Tensors,
    attention,
    dot,
    gelu,
    named_layer_norm,
    named_linear,
    softmax,
    weighted_sum,
)
from .seeded import linear_shapes, norm_shapes, uniform, weights

SIZES = {
    "frames": 3,
    "patches": 4,
    "vision_width": 8,
    "causal_layers": 2,
    "causal_heads": 2,
    "width": 16,
    "inner": 24,
    "vocab": 24,
    "layers": 4,
    "heads": 4,
    "kv_heads": 2,
    "insertions": 2,
    "queries": 3,
    "adapter_width": 6,
    "pairs": 2,
    "video_token_id": 20,
    "query_token_id": 21,
}
TEMPERATURE = 0.5
NORM_EPS = 1e-5
POSITION_BASE = 10000.0
# A prompt and its answer: text, the video, the instruction, the queries at the end of the prompt, the answer.
PROMPT = [1, 5, 20, 7, 11, 8, 21, 4, 9]


def pool_patches(patches: np.ndarray, w: Tensors) -> np.ndarray:
    """Eq. 1, self-weighted pooling: `(N, P, Dv)` to one row per frame."""
    pooled = []
    for frame in patches:
        shares = softmax(named_linear(frame, w, "pool")[:, 0].tolist())
        pooled.append(weighted_sum(shares, frame))
    return np.stack(pooled)


def frame_positions(frames: int, width: int) -> np.ndarray:
    """Sines of the number of the frame in the first half of the channels, cosines in the second."""
    half = width // 2
    out = np.empty((frames, width))
    for frame, i in np.ndindex(frames, half):
        angle = frame / POSITION_BASE ** (i / half)
        out[frame, i], out[frame, half + i] = math.sin(angle), math.cos(angle)
    return out


def causal_transformer(x: np.ndarray, w: Tensors) -> np.ndarray:
    """Eq. 2: a frame attends to itself and to the frames before it."""
    for number in range(SIZES["causal_layers"]):
        name = f"causal.{number}"
        normed = named_layer_norm(x, w, f"{name}.norm_1", NORM_EPS)
        mixed, _ = attention(
            named_linear(normed, w, f"{name}.q_proj"),
            named_linear(normed, w, f"{name}.k_proj"),
            named_linear(normed, w, f"{name}.v_proj"),
            SIZES["causal_heads"],
            allowed=lambda query, key: key <= query,
        )
        x = x + named_linear(mixed, w, f"{name}.o_proj")
        normed = named_layer_norm(x, w, f"{name}.norm_2", NORM_EPS)
        x = x + named_linear(gelu(named_linear(normed, w, f"{name}.fc1")), w, f"{name}.fc2")
    return x


def video_tokens(patches: np.ndarray, global_features: np.ndarray, w: Tensors) -> np.ndarray:
    """Section 3.2: for each frame its global token, then its temporal token: `(2 N, H)`."""
    pooled = pool_patches(patches, w)
    states = causal_transformer(pooled + frame_positions(*pooled.shape), w)
    temporal = named_linear(states, w, "temporal_proj")
    whole = named_linear(gelu(named_linear(global_features, w, "global_mlp.0")), w, "global_mlp.2")
    return np.stack([whole, temporal], axis=1).reshape(-1, temporal.shape[-1])


def selector(x: np.ndarray, patches: np.ndarray, global_features: np.ndarray, w: Tensors, name: str) -> np.ndarray:
    """Eq. 3: for each query a mixture of the frames, `(M, P, Da)`; the weights divide by tau, not by a root."""
    queries = named_linear(x, w, f"{name}.query").tolist()
    keys = named_linear(global_features, w, f"{name}.key").tolist()
    moved = named_linear(patches, w, f"{name}.trans")
    out = np.empty((len(queries), *moved.shape[1:]))
    for index, query in enumerate(queries):
        shares = softmax([dot(query, key) / TEMPERATURE for key in keys])
        for patch in range(moved.shape[1]):
            out[index, patch] = weighted_sum(shares, moved[:, patch])
    return out


def interactor(x: np.ndarray, selected: np.ndarray, w: Tensors, name: str) -> np.ndarray:
    """Eq. 4: each query reads the patches of its own mixture; the product is not scaled."""
    queries = named_linear(x, w, f"{name}.w1").tolist()
    read = []
    for query, patches in zip(queries, selected, strict=True):
        keys = named_linear(patches, w, f"{name}.w2").tolist()
        shares = softmax([dot(query, key) for key in keys])
        read.append(weighted_sum(shares, named_linear(patches, w, f"{name}.w3")))
    context = np.stack(read)
    return named_linear(gelu(named_linear(context, w, f"{name}.mlp.0")), w, f"{name}.mlp.2") + context


def adapter(hidden: np.ndarray, patches: np.ndarray, global_features: np.ndarray, w: Tensors) -> np.ndarray:
    """What is added to the hidden states `(M, H)` of the queries."""
    x = named_linear(named_layer_norm(hidden, w, "adapter.norm", NORM_EPS), w, "adapter.in_proj")
    for number in range(SIZES["pairs"]):
        name = f"adapter.pairs.{number}"
        x = interactor(x, selector(x, patches, global_features, w, name), w, name)
    return named_linear(x, w, "adapter.out_proj")


def embed(tokens: np.ndarray, w: Tensors) -> tuple[np.ndarray, list[int]]:
    """The embedded prompt with the video and the queries in it, and the places of the queries."""
    rows: list[np.ndarray] = []
    places: list[int] = []
    for token_id in PROMPT:
        if token_id == SIZES["video_token_id"]:
            rows.extend(tokens)
        elif token_id == SIZES["query_token_id"]:
            places = [len(rows) + index for index in range(SIZES["queries"])]
            rows.extend(w["query_tokens"])
        else:
            rows.append(w["embed_tokens.weight"][token_id])
    return np.stack(rows), places


def insertion_layers() -> list[int]:
    """The layers that read adapted states: every (L / NI)-th, from the first (Table 3)."""
    return list(range(0, SIZES["layers"], SIZES["layers"] // SIZES["insertions"]))


def shapes() -> dict[str, tuple[int, ...]]:
    size = SIZES
    vision, width, inner = size["vision_width"], size["width"], size["adapter_width"]
    result = linear_shapes("pool", vision, 1)
    for number in range(size["causal_layers"]):
        name = f"causal.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            result |= linear_shapes(f"{name}.{part}", vision, vision)
        result |= linear_shapes(f"{name}.fc1", vision, 4 * vision) | linear_shapes(f"{name}.fc2", 4 * vision, vision)
        result |= norm_shapes(f"{name}.norm_1", vision) | norm_shapes(f"{name}.norm_2", vision)
    result |= linear_shapes("temporal_proj", vision, width)
    result |= linear_shapes("global_mlp.0", vision, width) | linear_shapes("global_mlp.2", width, width)
    result |= norm_shapes("adapter.norm", width) | linear_shapes("adapter.in_proj", width, inner, bias=False)
    for number in range(size["pairs"]):
        name = f"adapter.pairs.{number}"
        for part, inputs in (("query", inner), ("key", vision), ("trans", vision), ("w1", inner), ("w2", inner)):
            result |= linear_shapes(f"{name}.{part}", inputs, inner)
        result |= linear_shapes(f"{name}.w3", inner, inner)
        result |= linear_shapes(f"{name}.mlp.0", inner, 4 * inner) | linear_shapes(f"{name}.mlp.2", 4 * inner, inner)
    result |= linear_shapes("adapter.out_proj", inner, width, bias=False)
    result |= {"query_tokens": (size["queries"], width)}
    return result | llama.shapes(size["vocab"], width, size["inner"], size["layers"], size["heads"], size["kv_heads"])


def make() -> tuple[Tensors, dict[str, object]]:
    """All tensors of the file, and the sizes that go with them."""
    size = SIZES
    w = weights("iva", shapes())
    tensors = {f"weights.{name}": tensor for name, tensor in w.items()}
    patches = uniform("iva/patches", (size["frames"], size["patches"], size["vision_width"]), 2.0)
    global_features = uniform("iva/global_features", (size["frames"], size["vision_width"]), 2.0)
    hidden = uniform("iva/hidden", (size["queries"], size["width"]), 2.0)
    tensors |= {"inputs.patches": patches, "inputs.global_features": global_features, "inputs.hidden": hidden}
    tokens = video_tokens(patches, global_features, w)
    tensors |= {"intermediate.pooled": pool_patches(patches, w), "outputs.video_tokens": tokens}
    x = named_linear(named_layer_norm(hidden, w, "adapter.norm", NORM_EPS), w, "adapter.in_proj")
    selected = selector(x, patches, global_features, w, "adapter.pairs.0")
    tensors["intermediate.selected"] = selected
    tensors["intermediate.interacted"] = interactor(x, selected, w, "adapter.pairs.0")
    tensors["outputs.adapter"] = adapter(hidden, patches, global_features, w)
    embedded, places = embed(tokens, w)

    def adapt(layer: int, states: np.ndarray) -> np.ndarray:
        if layer not in insertion_layers():
            return states
        states = states.copy()
        states[places] += adapter(states[places], patches, global_features, w)
        return states

    tensors["intermediate.embedded"] = embedded
    tensors["outputs.logits"] = llama.decode(embedded, w, size["heads"], size["kv_heads"], before_layer=adapt)
    tensors["outputs.logits_without_adapter"] = llama.decode(embedded, w, size["heads"], size["kv_heads"])
    return tensors, size | {"prompt": PROMPT, "insertion_layers": insertion_layers(), "temperature": TEMPERATURE}
