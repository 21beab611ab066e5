"""VideoLLaMA 2 (Cheng et al., 2024): the STC connector of Algorithm 1.

`RegStage` is timm's (`timm.models.regnet`), as the authors configure it: bottleneck ratio 1, one channel per group, a
LayerNorm over the channels after each convolution, squeeze-and-excitation. What Algorithm 1 leaves open follows the
authors' code (github.com/DAMO-NLP-SG/VideoLLaMA2): SiLU after the 3D convolution, which pads all three axes by 1 in
`stc_connector` and by 0 in `stc_connector_v35`. Names of weights are those of the public checkpoints.
"""

import math

import numpy as np

from .blocks import Tensors, dot, elementwise, gelu, named_layer_norm, named_linear, sigmoid, silu
from .seeded import linear_shapes, norm_shapes, uniform, weights

SIZES = {"videos": 2, "vision_width": 8, "width": 12, "depth": 4}
KERNEL = (2, 2, 2)
PADDING = {"stc_connector": 1, "stc_connector_v35": 0}
NORM_EPS = 1e-5  # timm's LayerNormAct2d, not the 1e-6 of its LayerNorm2d
# Frames, height and width of the inputs: even and odd sizes, one that is not square.
GRIDS = [(4, 4, 4), (3, 5, 5), (2, 3, 4)]


def block_shapes(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    """One block of a RegStage. The squeezed width is a quarter of the block's INPUT channels."""
    squeezed = round(0.25 * inputs)
    shapes: dict[str, tuple[int, ...]] = {
        f"{name}.conv1.conv.weight": (outputs, inputs, 1, 1),
        f"{name}.conv2.conv.weight": (outputs, 1, 3, 3),
        f"{name}.conv3.conv.weight": (outputs, outputs, 1, 1),
        f"{name}.se.fc1.weight": (squeezed, outputs, 1, 1),
        f"{name}.se.fc1.bias": (squeezed,),
        f"{name}.se.fc2.weight": (outputs, squeezed, 1, 1),
        f"{name}.se.fc2.bias": (outputs,),
    }
    for part in ("conv1", "conv2", "conv3"):
        shapes |= norm_shapes(f"{name}.{part}.bn", outputs)
    if inputs != outputs:
        shapes |= {f"{name}.downsample.conv.weight": (outputs, inputs, 1, 1)}
        shapes |= norm_shapes(f"{name}.downsample.bn", outputs)
    return shapes


def pointwise(x: np.ndarray, w: Tensors, name: str) -> np.ndarray:
    """A 1x1 convolution: a linear layer on the channels of each place."""
    weight = w[f"{name}.weight"]
    return named_linear(x, {"at.weight": weight.reshape(weight.shape[:2])} | _bias(w, name), "at")


def _bias(w: Tensors, name: str) -> Tensors:
    return {"at.bias": w[f"{name}.bias"]} if f"{name}.bias" in w else {}


def depthwise(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A 3x3 convolution with one filter per channel and a border of zeros; `x` is `(h, w, c)`."""
    height, width, channels = x.shape
    out = np.empty_like(x)
    for i, j, c in np.ndindex(height, width, channels):
        out[i, j, c] = math.fsum(
            x[i + di - 1, j + dj - 1, c] * weight[c, 0, di, dj]
            for di in range(3)
            for dj in range(3)
            if 0 <= i + di - 1 < height and 0 <= j + dj - 1 < width
        )
    return out


def squeeze_excite(x: np.ndarray, w: Tensors, name: str) -> np.ndarray:
    """Each channel times a factor in (0, 1) that depends on the mean of all channels over the frame."""
    mean = np.array([math.fsum(channel) / len(channel) for channel in x.reshape(-1, x.shape[-1]).T.tolist()])
    return x * elementwise(sigmoid, pointwise(silu(pointwise(mean, w, f"{name}.fc1")), w, f"{name}.fc2"))


def block(x: np.ndarray, w: Tensors, name: str) -> np.ndarray:
    """conv 1x1, depthwise conv 3x3, squeeze-and-excitation, conv 1x1; the sum with the shortcut goes through SiLU."""
    y = silu(named_layer_norm(pointwise(x, w, f"{name}.conv1.conv"), w, f"{name}.conv1.bn", NORM_EPS))
    y = silu(named_layer_norm(depthwise(y, w[f"{name}.conv2.conv.weight"]), w, f"{name}.conv2.bn", NORM_EPS))
    y = squeeze_excite(y, w, f"{name}.se")
    y = named_layer_norm(pointwise(y, w, f"{name}.conv3.conv"), w, f"{name}.conv3.bn", NORM_EPS)
    shortcut = x
    if f"{name}.downsample.conv.weight" in w:
        shortcut = named_layer_norm(pointwise(x, w, f"{name}.downsample.conv"), w, f"{name}.downsample.bn", NORM_EPS)
    return silu(y + shortcut)


def reg_stage(frames: np.ndarray, w: Tensors, name: str) -> np.ndarray:
    """The spatial interaction: each frame `(h, w, c)` by itself goes through all blocks."""
    out = []
    for frame in frames:
        for number in range(1, SIZES["depth"] + 1):
            frame = block(frame, w, f"{name}.b{number}")
        out.append(frame)
    return np.stack(out)


def convolve_3d(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, padding: int) -> np.ndarray:
    """The spatial-temporal aggregation: kernel and stride 2 on time, height and width; `x` is `(t, h, w, c)`."""
    sizes = [(size + 2 * padding - step) // step + 1 for size, step in zip(x.shape, KERNEL, strict=False)]
    out = np.empty((*sizes, len(weight)))
    for t, i, j in np.ndindex(*sizes):
        places = []
        for offset in np.ndindex(*KERNEL):
            place = [
                start * step + shift - padding for start, step, shift in zip((t, i, j), KERNEL, offset, strict=True)
            ]
            if all(0 <= at < size for at, size in zip(place, x.shape, strict=False)):
                places.append((tuple(place), offset))
        for channel, kernel in enumerate(weight):
            out[t, i, j, channel] = bias[channel] + math.fsum(
                dot(x[place], kernel[(slice(None), *offset)]) for place, offset in places
            )
    return out


def steps(video: np.ndarray, w: Tensors, padding: int) -> dict[str, np.ndarray]:
    """All steps of Algorithm 1 on the features `(t, h, w, c)` of one video."""
    first = reg_stage(video, w, "s1")
    sampled = silu(convolve_3d(first, w["sampler.0.weight"], w["sampler.0.bias"], padding))
    second = reg_stage(sampled, w, "s2")
    # Principle 1 of the paper: the tokens keep their order in time, then in rows, then in columns.
    tokens = second.reshape(-1, second.shape[-1])
    out = named_linear(gelu(named_linear(tokens, w, "readout.0")), w, "readout.2")
    return {"s1": first, "sampled": sampled, "s2": second, "tokens": out}


def shapes() -> dict[str, tuple[int, ...]]:
    vision_width, width = SIZES["vision_width"], SIZES["width"]
    result: dict[str, tuple[int, ...]] = {}
    for stage, first in (("s1", vision_width), ("s2", width)):
        for number in range(1, SIZES["depth"] + 1):
            result |= block_shapes(f"{stage}.b{number}", first if number == 1 else width, width)
    result |= {"sampler.0.weight": (width, width, *KERNEL), "sampler.0.bias": (width,)}
    return result | linear_shapes("readout.0", width, width) | linear_shapes("readout.2", width, width)


def make() -> tuple[Tensors, dict[str, object]]:
    """All tensors of the file, and the sizes that go with them."""
    w = weights("videollama2", shapes())
    tensors = {f"weights.{name}": tensor for name, tensor in w.items()}
    for grid in GRIDS:
        case = "x".join(map(str, grid))
        # Two videos of the first size show that a batch does not mix; one is enough for the others.
        videos = SIZES["videos"] if grid == GRIDS[0] else 1
        features = uniform(f"videollama2/{case}", (videos, *grid, SIZES["vision_width"]), 2.0)
        tensors[f"inputs.{case}"] = features
        for connector, padding in PADDING.items():
            results = [steps(video, w, padding) for video in features]
            tensors[f"outputs.{connector}.{case}"] = np.stack([result["tokens"] for result in results])
            if grid == GRIDS[0]:
                tensors["intermediate.s1"] = results[0]["s1"]
                for step in ("sampled", "s2"):
                    tensors[f"intermediate.{connector}.{step}"] = results[0][step]
    return tensors, SIZES | {"kernel": KERNEL, "padding": PADDING, "grids": GRIDS}
