"""The audio branch of VideoLLaMA 2 (section 2.1): log mel features, BEATs (Chen et al., 2022), the audio projector.

BEATs follows its authors' code (github.com/microsoft/unilm, folder `beats`), whose names the weights have: a patch
embedding of the log mel features, a convolution that codes the position, and post-norm layers ("deep norm") whose
attention has a bucketed and gated relative position bias. The features are Kaldi's filter bank with the settings of
`torchaudio.compliance.kaldi.fbank` that BEATs uses. The audio projector is the two-layer MLP of the released model.
"""

import cmath
import math

import numpy as np

from .blocks import Tensors, attention, dot, gelu, linear, named_layer_norm, named_linear, sigmoid
from .seeded import linear_shapes, norm_shapes, uniform, weights

SIZES = {
    "mel_bins": 128,
    "patch": 16,
    "patch_width": 6,
    "width": 8,
    "heads": 2,
    "inner": 12,
    "layers": 2,
    "buckets": 8,
    "max_distance": 16,
    "position_kernel": 4,
    "position_groups": 2,
    "llm_width": 10,
}
NORM_EPS = 1e-5
# Constants of BEATs: mean and standard deviation of the features of AudioSet.
FEATURE_MEAN, FEATURE_STD = 15.41663, 6.55582
SAMPLE_RATE, FRAME, HOP, FOURIER = 16000, 400, 160, 512
LOWEST, FLOOR = 20.0, 2.0**-23
SAMPLES = 800
FEATURE_FRAMES = 40
# How many of the 40 feature frames are sound, in the case with padding.
VALID_FRAMES = 23


def mel(frequency: float) -> float:
    return 1127 * math.log(1 + frequency / 700)


def mel_filter(number: int, bins: int) -> list[float]:
    """Weights of one triangular filter, on the mel scale, for the 256 lowest frequencies of the Fourier transform."""
    low, high = mel(LOWEST), mel(SAMPLE_RATE / 2)
    step = (high - low) / (bins + 1)
    left = low + number * step
    places = [mel(SAMPLE_RATE / FOURIER * index) for index in range(FOURIER // 2)]
    return [max(0.0, min((at - left) / step, (left + 2 * step - at) / step)) for at in places]


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """Kaldi's log mel filter bank of a waveform in [-1, 1): one row of 128 values every 10 ms."""
    samples = [value * 2**15 for value in waveform.tolist()]
    bins = SIZES["mel_bins"]
    filters = [mel_filter(number, bins) for number in range(bins)]
    # The "povey" window: a Hann window that reaches 0 at both ends, to the power 0.85.
    window = [(0.5 - 0.5 * math.cos(2 * math.pi * index / (FRAME - 1))) ** 0.85 for index in range(FRAME)]
    turns = [cmath.exp(-2j * math.pi * index / FOURIER) for index in range(FOURIER)]
    rows = []
    for start in range(0, len(samples) - FRAME + 1, HOP):
        frame = samples[start : start + FRAME]
        mean = math.fsum(frame) / FRAME
        frame = [value - mean for value in frame]
        # Pre-emphasis; the sample before the first one is taken to be equal to it.
        frame = [value - 0.97 * frame[max(0, index - 1)] for index, value in enumerate(frame)]
        frame = [value * weight for value, weight in zip(frame, window, strict=True)]
        power = []
        for k in range(FOURIER // 2):
            real = math.fsum(value * turns[k * index % FOURIER].real for index, value in enumerate(frame))
            imaginary = math.fsum(value * turns[k * index % FOURIER].imag for index, value in enumerate(frame))
            power.append(real**2 + imaginary**2)
        rows.append([math.log(max(dot(power, weights), FLOOR)) for weights in filters])
    return np.array(rows)


def patches(features: np.ndarray) -> np.ndarray:
    """Non-overlapping 16x16 patches as rows of 256 values: all 8 bands of the first 16 frames, then of the next 16.

    Frames that do not fill a patch are left out.
    """
    size = SIZES["patch"]
    bands = features.shape[1] // size
    return np.stack(
        [
            features[t * size : (t + 1) * size, band * size : (band + 1) * size].reshape(-1)
            for t in range(len(features) // size)
            for band in range(bands)
        ]
    )


def token_mask(valid_frames: int, frames: int, tokens: int) -> list[bool]:
    """Which tokens are padding.

    BEATs cuts the frames to a multiple of the number of tokens and lets equal groups of consecutive frames decide, one
    group per token, although 8 tokens share the same 16 frames. A token is padding when its whole group is.
    """
    group = frames // tokens
    return [all(frame >= valid_frames for frame in range(i * group, (i + 1) * group)) for i in range(tokens)]


def position_convolution(x: np.ndarray, w: Tensors) -> np.ndarray:
    """A grouped convolution along the tokens, with weight norm per kernel position; its last output is dropped.

    The kernel has an even length and both ends are padded by half of it, which gives one output too many.
    """
    name = "encoder.pos_conv.0"
    direction, gain = w[f"{name}.weight_v"], w[f"{name}.weight_g"]
    kernel = SIZES["position_kernel"]
    filters = np.empty_like(direction)
    for position in range(kernel):
        column = direction[:, :, position]
        squares = math.fsum(value**2 for value in column.ravel().tolist())
        filters[:, :, position] = gain[0, 0, position] * column / math.sqrt(squares + 1e-6)
    width = x.shape[1]
    group = width // SIZES["position_groups"]
    out = np.empty_like(x)
    for token, channel in np.ndindex(*x.shape):
        first = channel // group * group
        out[token, channel] = w[f"{name}.bias"][channel] + math.fsum(
            dot(x[token + shift - kernel // 2, first : first + group], filters[channel, :, shift])
            for shift in range(kernel)
            if 0 <= token + shift - kernel // 2 < len(x)
        )
    return gelu(out)


def bucket(distance: int) -> int:
    """Bucket of the distance `key - query`, as in T5: the upper half of all buckets is for keys that come later.

    Half of the buckets of each direction hold one distance each; the others grow with the logarithm of the distance.
    """
    half = SIZES["buckets"] // 2
    exact = half // 2
    start = half if distance > 0 else 0
    distance = abs(distance)
    if distance < exact:
        return start + distance
    share = math.log(distance / exact) / math.log(SIZES["max_distance"] / exact)
    return start + min(half - 1, exact + int(share * (half - exact)))


def gates(queries: np.ndarray, w: Tensors, name: str) -> np.ndarray:
    """Factor of the position bias, `(heads, tokens)`, from the query projection of each head (before any scaling)."""
    heads = SIZES["heads"]
    width = queries.shape[1] // heads
    out = np.empty((heads, len(queries)))
    for head, token in np.ndindex(*out.shape):
        eight = named_linear(queries[token, head * width : (head + 1) * width], w, f"{name}.grep_linear").tolist()
        first, second = sigmoid(math.fsum(eight[:4])), sigmoid(math.fsum(eight[4:]))
        out[head, token] = first * (second * w[f"{name}.grep_a"][0, head, 0, 0] - 1) + 2
    return out


def layer(x: np.ndarray, w: Tensors, number: int, padding: list[bool]) -> np.ndarray:
    """LN(alpha x + attention(x)), then LN(alpha x + MLP(x)), with alpha = (2 layers)^(1/4) (deep norm)."""
    name = f"encoder.layers.{number}"
    alpha = (2 * SIZES["layers"]) ** 0.25
    queries = named_linear(x, w, f"{name}.self_attn.q_proj")
    gate = gates(queries, w, f"{name}.self_attn")
    table = w["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    mixed, _ = attention(
        queries,
        named_linear(x, w, f"{name}.self_attn.k_proj"),
        named_linear(x, w, f"{name}.self_attn.v_proj"),
        SIZES["heads"],
        allowed=lambda query, key: not padding[key],
        bias=lambda head, query, key: gate[head, query] * table[bucket(key - query), head],
    )
    x = alpha * x + named_linear(mixed, w, f"{name}.self_attn.out_proj")
    x = named_layer_norm(x, w, f"{name}.self_attn_layer_norm", NORM_EPS)
    inner = named_linear(gelu(named_linear(x, w, f"{name}.fc1")), w, f"{name}.fc2")
    return named_layer_norm(alpha * x + inner, w, f"{name}.final_layer_norm", NORM_EPS)


def encode(features: np.ndarray, w: Tensors, valid_frames: int) -> dict[str, np.ndarray]:
    """All steps from the log mel features `(T, 128)` of one sound to the rows that the language model reads."""
    normalized = (features - FEATURE_MEAN) / (2 * FEATURE_STD)
    kernel = w["patch_embedding.weight"]
    embedded = linear(patches(normalized), kernel.reshape(len(kernel), -1))
    x = named_linear(named_layer_norm(embedded, w, "layer_norm", NORM_EPS), w, "post_extract_proj")
    padding = token_mask(valid_frames, len(features), len(x))
    steps = {"patches": x, "padding": np.array(padding, dtype=np.float64)}
    x = np.where(np.array(padding)[:, None], 0.0, x)
    x = named_layer_norm(x + position_convolution(x, w), w, "encoder.layer_norm", NORM_EPS)
    steps["positions"] = x
    for number in range(SIZES["layers"]):
        x = layer(x, w, number, padding)
        steps[f"layer_{number}"] = x
    steps["encoded"] = x
    steps["tokens"] = named_linear(gelu(named_linear(x, w, "mm_projector_a.0")), w, "mm_projector_a.2")
    return steps


def shapes() -> dict[str, tuple[int, ...]]:
    width, heads, kernel = SIZES["width"], SIZES["heads"], SIZES["position_kernel"]
    result: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (SIZES["patch_width"], 1, SIZES["patch"], SIZES["patch"])
    }
    result |= norm_shapes("layer_norm", SIZES["patch_width"])
    result |= linear_shapes("post_extract_proj", SIZES["patch_width"], width)
    result |= {
        "encoder.pos_conv.0.weight_v": (width, width // SIZES["position_groups"], kernel),
        "encoder.pos_conv.0.weight_g": (1, 1, kernel),
        "encoder.pos_conv.0.bias": (width,),
        # One table that all layers share.
        "encoder.layers.0.self_attn.relative_attention_bias.weight": (SIZES["buckets"], heads),
    }
    result |= norm_shapes("encoder.layer_norm", width)
    for number in range(SIZES["layers"]):
        name = f"encoder.layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            result |= linear_shapes(f"{name}.self_attn.{part}", width, width)
        result |= linear_shapes(f"{name}.self_attn.grep_linear", width // heads, 8)
        result |= {f"{name}.self_attn.grep_a": (1, heads, 1, 1)}
        result |= linear_shapes(f"{name}.fc1", width, SIZES["inner"])
        result |= linear_shapes(f"{name}.fc2", SIZES["inner"], width)
        result |= norm_shapes(f"{name}.self_attn_layer_norm", width) | norm_shapes(f"{name}.final_layer_norm", width)
    result |= linear_shapes("mm_projector_a.0", width, SIZES["llm_width"])
    return result | linear_shapes("mm_projector_a.2", SIZES["llm_width"], SIZES["llm_width"])


def make() -> tuple[Tensors, dict[str, object]]:
    """All tensors of the file, and the sizes that go with them."""
    w = weights("videollama2_audio", shapes())
    tensors = {f"weights.{name}": tensor for name, tensor in w.items()}
    waveform = uniform("videollama2_audio/waveform", (SAMPLES,), 0.5)
    tensors |= {"inputs.waveform": waveform, "outputs.log_mel": log_mel(waveform)}
    features = uniform("videollama2_audio/features", (FEATURE_FRAMES, SIZES["mel_bins"]), 8.0)
    features = (features + 14).astype(np.float32).astype(np.float64)
    tensors["inputs.features"] = features
    for case, valid_frames in (("whole", FEATURE_FRAMES), ("padded", VALID_FRAMES)):
        steps = encode(features, w, valid_frames)
        for step in ("patches", "padding", "positions", "layer_0"):
            tensors[f"intermediate.{case}.{step}"] = steps[step]
        tensors |= {f"outputs.{case}.encoded": steps["encoded"], f"outputs.{case}.tokens": steps["tokens"]}
    distances = np.arange(-20, 21)
    tensors["outputs.buckets"] = np.array([bucket(int(distance)) for distance in distances], dtype=np.float64)
    sizes = {"samples": SAMPLES, "valid_frames": VALID_FRAMES, "first_distance": int(distances[0])}
    return tensors, SIZES | sizes
