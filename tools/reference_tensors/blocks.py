"""Building blocks that several designs share, in float64 and written as plain loops.

Every sum is `math.fsum`, which rounds once: the result does not depend on the order of the terms, so that two machines
agree to the last digits. The arrays are NumPy's, but no NumPy operation multiplies matrices or convolves.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

Tensors = dict[str, np.ndarray]


def dot(left: Iterable[float], right: Iterable[float]) -> float:
    return math.fsum(x * y for x, y in zip(left, right, strict=True))


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """`x W^T + b` over the last axis; `weight` is `(out, in)`."""
    outputs = weight.tolist()
    result = [[dot(row, output) for output in outputs] for row in x.reshape(-1, x.shape[-1]).tolist()]
    out = np.array(result).reshape(*x.shape[:-1], len(outputs))
    return out if bias is None else out + bias


def named_linear(x: np.ndarray, weights: Tensors, name: str) -> np.ndarray:
    return linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """Over the last axis, with the variance that divides by the number of channels."""
    out = np.empty_like(x)
    for index in np.ndindex(*x.shape[:-1]):
        row = x[index].tolist()
        mean = math.fsum(row) / len(row)
        variance = math.fsum((value - mean) ** 2 for value in row) / len(row)
        for channel, value in enumerate(row):
            out[(*index, channel)] = (value - mean) / math.sqrt(variance + eps) * weight[channel] + bias[channel]
    return out


def named_layer_norm(x: np.ndarray, weights: Tensors, name: str, eps: float) -> np.ndarray:
    return layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def elementwise(function: Callable[[float], float], x: np.ndarray) -> np.ndarray:
    return np.array([function(value) for value in x.ravel().tolist()]).reshape(x.shape)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def silu(x: np.ndarray) -> np.ndarray:
    return elementwise(lambda value: value * sigmoid(value), x)


def gelu(x: np.ndarray) -> np.ndarray:
    """The exact form, by the error function."""
    return elementwise(lambda value: 0.5 * value * (1 + math.erf(value / math.sqrt(2))), x)


def softmax(row: Sequence[float], allowed: Sequence[bool] | None = None) -> list[float]:
    """Weights of one row; entries that are not allowed get weight 0."""
    allowed = [True] * len(row) if allowed is None else allowed
    highest = max(value for value, valid in zip(row, allowed, strict=True) if valid)
    powers = [math.exp(value - highest) if valid else 0.0 for value, valid in zip(row, allowed, strict=True)]
    total = math.fsum(powers)
    return [power / total for power in powers]


def weighted_sum(weights: Sequence[float], rows: np.ndarray) -> np.ndarray:
    return np.array([dot(weights, column) for column in rows.T.tolist()])


def attention(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    num_heads: int,
    allowed: Callable[[int, int], bool] = lambda query, key: True,
    bias: Callable[[int, int, int], float] = lambda head, query, key: 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Scaled dot-product attention of projected rows.

    Args:
        queries: `(Q, D)`, heads one after the other; `keys` and `values` are `(K, D)`.
        allowed: whether query q may look at key k.
        bias: what is added to the scaled score of (head, query, key).

    Returns:
        The mixed values `(Q, D)` before any output projection, and the weights `(heads, Q, K)`.
    """
    width = queries.shape[1] // num_heads
    out = np.zeros((len(queries), values.shape[1]))
    weights = np.zeros((num_heads, len(queries), len(keys)))
    for head in range(num_heads):
        part = slice(head * width, (head + 1) * width)
        for query, row in enumerate(queries):
            scores = [
                dot(row[part], key[part]) / math.sqrt(width) + bias(head, query, at) for at, key in enumerate(keys)
            ]
            weights[head, query] = softmax(scores, [allowed(query, at) for at in range(len(keys))])
            out[query, part] = weighted_sum(weights[head, query], values[:, part])
    return out, weights


def projected_attention(
    queries: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    weights: Tensors,
    name: str,
    num_heads: int,
    allowed: Callable[[int, int], bool] = lambda query, key: True,
) -> np.ndarray:
    """Multi-head attention with its four linear layers `name`.{q,k,v,o}_proj."""
    mixed, _ = attention(
        named_linear(queries, weights, f"{name}.q_proj"),
        named_linear(keys, weights, f"{name}.k_proj"),
        named_linear(values, weights, f"{name}.v_proj"),
        num_heads,
        allowed,
    )
    return named_linear(mixed, weights, f"{name}.o_proj")
