"""LinVT (Gao et al., 2024), section 3.2: score, select, pool, condition on the text, aggregate.

Every output is a weighted mean of visual tokens of the input (the linearity of section 3.1): the map M, with one row
per output and one column per input token, is recorded and multiplied with the input in `aggregate`.

The paper leaves some things open. Here, as in this package: the scorer's layers are pre-norm with a residual, the
aggregator's post-norm (as in the authors' code, github.com/gls0425/LinVT), neither has an MLP; the finest scale has the
most queries; the aggregation has one head. `time_code` tells the time of a frame to the scorer and to the keys, never
to the values; without it the module is the literal paper.
"""

import math

import numpy as np

from .blocks import (
    Tensors,
    dot,
    named_layer_norm,
    named_linear,
    projected_attention,
    softmax,
    weighted_sum,
)
from .seeded import linear_shapes, norm_shapes, uniform, weights

SIZES = {"videos": 2, "frames": 4, "tokens_per_frame": 6, "width": 16, "heads": 8, "layers": 2, "text": 4, "top_k": 13}
WINDOWS = [1, 2, 4]
QUERIES = [4, 2, 1]
# The second video has two padded frames, which leaves fewer tokens than the selection may take; the second question has
# one padded token.
VALID_FRAMES = [4, 2]
VALID_TEXT = [4, 3]
NORM_EPS = 1e-5
CODE_BASE = 10000.0
# Seconds of the frames.
FRAME_TIMES = [[0.0, 0.5, 1.5, 4.0], [0.25, 1.25, 0.0, 0.0]]


def time_code(times: list[float], tokens: np.ndarray) -> np.ndarray:
    """Sine and cosine of each frame's time, interleaved, as large as the tokens are on average: `(T, D)`."""
    width = tokens.shape[-1]
    values = tokens.ravel().tolist()
    size = math.sqrt(math.fsum(value**2 for value in values) / len(values))
    code = np.empty((len(times), width))
    for frame, i in np.ndindex(len(times), width // 2):
        angle = times[frame] / CODE_BASE ** (2 * i / width)
        code[frame, 2 * i] = size * math.sin(angle)
        code[frame, 2 * i + 1] = size * math.cos(angle)
    return code


def score(tokens: np.ndarray, code: np.ndarray, w: Tensors) -> np.ndarray:
    """Significance of every token `(T, N)`: attention within each frame, then across the frames at each place."""
    x = tokens + code[:, None]
    for number in range(SIZES["layers"]):
        name = f"scorer.{number}.spatial"
        for frame in range(len(x)):
            normed = named_layer_norm(x[frame], w, f"{name}_norm", NORM_EPS)
            x[frame] += projected_attention(normed, normed, normed, w, name, SIZES["heads"])
        name = f"scorer.{number}.temporal"
        for place in range(x.shape[1]):
            normed = named_layer_norm(x[:, place], w, f"{name}_norm", NORM_EPS)
            x[:, place] += projected_attention(normed, normed, normed, w, name, SIZES["heads"])
    return named_linear(named_layer_norm(x, w, "scorer.norm", NORM_EPS), w, "scorer.score")[..., 0]


def select(scores: np.ndarray) -> list[int]:
    """The k best tokens in the order of time and place; of equal scores the earlier token is better."""
    flat = scores.ravel().tolist()
    best = sorted(range(len(flat)), key=lambda index: (-flat[index], index))
    return sorted(best[: SIZES["top_k"]])


def pooling(count: int, window: int, stride: int) -> np.ndarray:
    """Rows of means over windows of neighbouring selected tokens; the last window averages what it holds."""
    rows = max(0, math.ceil((count - window) / stride)) + 1
    matrix = np.zeros((rows, count))
    for row in range(rows):
        places = range(row * stride, min(row * stride + window, count))
        for place in places:
            matrix[row, place] = 1 / len(places)
    return matrix


def condition(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, text: np.ndarray | None, w: Tensors
) -> np.ndarray:
    """The queries of one group after L times self-attention, attention to its tokens, attention to the text."""
    for number in range(SIZES["layers"]):
        for part in ("self", "visual", "text"):
            name = f"aggregator.{number}.{part}"
            source, content = {"self": (queries, queries), "visual": (keys, values), "text": (text, text)}[part]
            # Without a text the norm still runs.
            if source is not None:
                queries = queries + projected_attention(queries, source, content, w, name, SIZES["heads"])
            queries = named_layer_norm(queries, w, f"{name}_norm", NORM_EPS)
    return queries


def attention_map(queries: np.ndarray, keys: np.ndarray, w: Tensors) -> np.ndarray:
    """softmax(W_q Q, W_k T) of the linear aggregation layer: one weight for each query and token."""
    projected = named_linear(keys, w, "aggregator.key").tolist()
    scale = math.sqrt(queries.shape[1])
    rows = named_linear(queries, w, "aggregator.query").tolist()
    return np.array([softmax([dot(row, key) / scale for key in projected]) for row in rows])


def multiply(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.stack([weighted_sum(row, right) for row in left.tolist()])


def pools_and_queries(count: int, w: Tensors, variant: str, overlap: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each group of queries, how the `count` selected tokens are pooled before they meet it (Fig. 3)."""
    pools = [pooling(count, window, max(1, window // 2) if overlap else window) for window in WINDOWS]
    queries = [w[f"aggregator.queries.{scale}"] for scale in range(len(WINDOWS))]
    if variant == "multi_c":
        return list(zip(pools, queries, strict=True))
    if variant == "multi_b":
        return [(np.concatenate(pools), np.concatenate(queries))]
    return [(np.eye(count), queries[0] if variant == "multi_a" else np.concatenate(queries))]


def tokenize(
    video: np.ndarray,
    code: np.ndarray,
    text: np.ndarray | None,
    w: Tensors,
    variant: str = "multi_c",
    overlap: bool = False,
) -> dict[str, np.ndarray]:
    """All steps on the valid frames `(T, N, D)` of one video and the valid tokens `(S, D)` of its question.

    Args:
        code: `(T, D)`, zeros for the literal paper.
        text: `None` for a video without a question (Table 5).
        variant: of Fig. 3. "multi_c", the paper's choice: the scales do not see each other, and their outputs follow
            each other, finest first. "multi_b": all queries see all scales. "single_a": all queries see the selected
            tokens. "multi_a": as that, with the queries of the first scale, and their outputs are pooled.
        overlap: windows start half a window apart.
    """
    scores = score(video, code, w)
    chosen = select(scores)
    flat = video.reshape(-1, video.shape[-1])
    codes = np.repeat(code, video.shape[1], axis=0)
    selection = np.zeros((len(chosen), len(flat)))
    for row, index in enumerate(chosen):
        selection[row, index] = 1
    maps = []
    steps = {"scores": scores, "selected": np.array(chosen, dtype=np.float64)}
    for group, (pool, queries) in enumerate(pools_and_queries(len(chosen), w, variant, overlap)):
        pooled = multiply(pool, flat[chosen])
        keys = pooled + multiply(pool, codes[chosen])
        queries = condition(queries, keys, pooled, text, w)
        maps.append(multiply(multiply(attention_map(queries, keys, w), pool), selection))
        steps[f"pooled_{group}"] = pooled
    if variant == "multi_a":
        maps = [multiply(pooling(len(maps[0]), window, window), maps[0]) for window in WINDOWS]
    steps["map"] = np.concatenate(maps)
    steps["tokens"] = multiply(steps["map"], flat)
    return steps


def shapes() -> dict[str, tuple[int, ...]]:
    width = SIZES["width"]
    result: dict[str, tuple[int, ...]] = {}
    stacks = {"scorer": ("spatial", "temporal"), "aggregator": ("self", "visual", "text")}
    for stack, parts in stacks.items():
        for number in range(SIZES["layers"]):
            for part in parts:
                name = f"{stack}.{number}.{part}"
                result |= norm_shapes(f"{name}_norm", width)
                for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
                    result |= linear_shapes(f"{name}.{projection}", width, width)
    result |= norm_shapes("scorer.norm", width) | linear_shapes("scorer.score", width, 1)
    result |= linear_shapes("aggregator.query", width, width) | linear_shapes("aggregator.key", width, width)
    return result | {f"aggregator.queries.{scale}": (count, width) for scale, count in enumerate(QUERIES)}


def make() -> tuple[Tensors, dict[str, object]]:
    """All tensors of the file, and the sizes that go with them."""
    size = SIZES
    w = weights("linvt", shapes())
    tensors = {f"weights.{name}": tensor for name, tensor in w.items()}
    videos = uniform(
        "linvt/videos", (size["videos"], size["frames"], size["tokens_per_frame"], size["width"]), scale=1.5
    )
    texts = uniform("linvt/texts", (size["videos"], size["text"], size["width"]))
    tensors |= {"inputs.videos": videos, "inputs.texts": texts}
    for case, coded, overlap in (("paper", False, False), ("time_code", True, False), ("overlap", True, True)):
        for row in range(size["videos"]):
            video = videos[row, : VALID_FRAMES[row]]
            code = time_code(FRAME_TIMES[row][: len(video)], video) if coded else no_code(video)
            steps = tokenize(video, code, texts[row, : VALID_TEXT[row]], w, overlap=overlap)
            check_margin(steps["scores"])
            for step, tensor in steps.items():
                kind = "outputs" if step in ("tokens", "map") else "intermediate"
                tensors[f"{kind}.{case}.{row}.{step}"] = tensor
    for variant in ("single_a", "multi_a", "multi_b"):
        steps = tokenize(videos[0], no_code(videos[0]), texts[0], w, variant)
        tensors |= {f"outputs.{variant}.0.{step}": steps[step] for step in ("tokens", "map")}
    tensors["outputs.no_text.0.tokens"] = tokenize(videos[0], no_code(videos[0]), None, w)["tokens"]
    facts = {
        "windows": WINDOWS,
        "queries": QUERIES,
        "valid_frames": VALID_FRAMES,
        "valid_text": VALID_TEXT,
        "frame_times": FRAME_TIMES,
    }
    return tensors, size | facts


def no_code(video: np.ndarray) -> np.ndarray:
    return np.zeros((len(video), video.shape[-1]))


def check_margin(scores: np.ndarray) -> None:
    """Refuse inputs whose selection hangs on the last digits, which another precision would round differently."""
    ordered = sorted(scores.ravel().tolist(), reverse=True)
    last, first = ordered[: SIZES["top_k"]][-1], ordered[SIZES["top_k"] :][:1]
    if first and last - first[0] < 1e-3:
        raise ValueError("scores at the border of the selection are too close: choose another seed")
