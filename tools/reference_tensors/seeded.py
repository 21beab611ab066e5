"""Numbers that look random and are the same on every machine and with every version of NumPy."""

import zlib
from collections.abc import Mapping

import numpy as np

_MASK = (1 << 64) - 1


def _splitmix64(state: int) -> int:
    """One step of SplitMix64 (Steele, Lea and Flood, 2014): a bijective mixing of 64 bits."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
    return state ^ (state >> 31)


def uniform(name: str, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """Values in [-scale, scale), seeded by `name`, that float32 holds exactly."""
    seed = zlib.crc32(name.encode())
    count = int(np.prod(shape))
    numbers = [_splitmix64(seed + (index + 1) * 0x9E3779B97F4A7C15 & _MASK) for index in range(count)]
    values = np.array([((number >> 40) / (1 << 23) - 1) * scale for number in numbers])
    return values.astype(np.float32).astype(np.float64).reshape(shape)


def weights(design: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """One tensor for each name.

    Matrices are scaled by the number of their inputs, so that activations keep about their size. The weights of norms
    stand around 1 and every bias differs from 0, so that a test sees a norm or a bias that was left out.
    """
    tensors = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            tensors[name] = uniform(f"{design}/{name}", shape, (3 / np.prod(shape[1:])) ** 0.5)
        elif name.endswith("weight"):
            tensors[name] = np.float32(1 + uniform(f"{design}/{name}", shape, 0.5)).astype(np.float64)
        else:
            tensors[name] = uniform(f"{design}/{name}", shape, 0.25)
    return tensors


def linear_shapes(name: str, inputs: int, outputs: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    return shapes | ({f"{name}.bias": (outputs,)} if bias else {})


def norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
