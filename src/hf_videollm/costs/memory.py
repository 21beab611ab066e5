"""Predicts the memory that a model needs to answer a question on one video, from its configuration alone.

The model's own code runs once on torch's meta device, where tensors have sizes but no values; the sizes of all tensors
that are alive at one moment are added up (`live_bytes.py`).
"""

from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from ..models.configuration_video_llm import context_length
from ..models.errors import one_line
from .cpu_bytes import CpuBytes, attention_bytes
from .live_bytes import META, FusedAttention, unique_bytes

HOW = (
    "The model's code runs once on torch's meta device (sizes without values), and the tensors that are alive at one "
    "moment are added up: weights, frames, activations and key-value cache. Python with its libraries, and the reading "
    "of the video, come besides."
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Seconds of sound of an estimate, and tokens of the context that it leaves for the answer.
LONGEST_SOUND = 30
ROOM_FOR_ANSWER = 32


@dataclass(frozen=True)
class MemoryPrediction:
    """The largest memory while a model answers a question, in bytes.

    Attributes:
        dtype: type of weights and activations, such as `"bfloat16"`.
        num_frames: frames of the video.
        text_tokens: tokens of the question.
        weights: all parameters and buffers.
        inputs: frames and sound as the model gets them.
        activations: the most that is alive while the prompt is processed, besides weights and inputs; the key-value
            cache is a part of it.
        total: the sum of the three.
        cpu_first_answer: the most that a process takes on a CPU, beyond Python with its libraries, until it has loaded
            the model and answered once. Pages of weights take memory when they are read for the first time.
        cpu_later_answers: the same for further answers, when the weights that the model uses are in memory.
        sound_frames: filter-bank frames of the sound; `None` without sound.
    """

    dtype: str
    num_frames: int
    text_tokens: int
    weights: int
    inputs: int
    activations: int
    total: int
    cpu_first_answer: int = 0
    cpu_later_answers: int = 0
    sound_frames: int | None = None


def filter_bank_frames(seconds: int) -> int:
    """Frames of 25 ms of a sound, one every 10 ms.

    Example:
        >>> filter_bank_frames(30)
        2998
    """
    return 100 * seconds - 2


def sound_seconds(config: Any, *, num_frames: int | None = None, text_tokens: int = 256) -> int:
    """Seconds of sound of an estimate: 30, or the most that the context holds beside the video, the text and an answer.

    Args:
        config: configuration of any design.
        num_frames: frames of the video; the number in the configuration by default.
        text_tokens: tokens of the prompt besides the media.

    Returns:
        0 for a design that does not hear, and where the context has no room for a second of sound.
    """
    if "audio" not in config.modalities:
        return 0
    if (context := context_length(config)) is None:
        return LONGEST_SOUND
    room = context - ROOM_FOR_ANSWER - prompt_tokens(config, num_frames=num_frames, text_tokens=text_tokens)
    fitting = (n for n in range(LONGEST_SOUND, 0, -1) if config.num_audio_tokens(filter_bank_frames(n)) <= room)
    return next(fitting, 0)


def prompt_tokens(config: Any, *, num_frames: int | None = None, text_tokens: int = 256, seconds: int = 0) -> int:
    """Tokens of a prompt with a video, a sound and a text.

    Args:
        config: configuration of any design.
        num_frames: frames of the video; the number in the configuration by default.
        text_tokens: tokens of the prompt besides the media.
        seconds: length of the sound; 0 for none.
    """
    sound = config.num_audio_tokens(filter_bank_frames(seconds)) if seconds else 0
    frames = config.num_frames if num_frames is None else num_frames
    return config.num_video_tokens(frames) + sound + text_tokens + config.num_prompt_tokens()


def predict_memory(
    config: Any,
    *,
    dtype: torch.dtype = torch.bfloat16,
    num_frames: int | None = None,
    text_tokens: int = 256,
    sound_frames: int | None = None,
    weights: int | None = None,
    is_mapped: bool = True,
) -> MemoryPrediction:
    """Predict the memory for one video and one question, without weights.

    Args:
        config: configuration of any design.
        dtype: type of weights and activations.
        num_frames: frames of the video; the number in the configuration by default.
        text_tokens: tokens of the prompt besides the media.
        sound_frames: filter-bank frames of the sound, for designs that hear; no sound by default.
        weights: bytes of the weights if they are known otherwise, as those of a quantized model.
        is_mapped: the files hold the weights in this type, so that on a CPU they are mapped into memory. Otherwise they
            are converted, which takes memory for all of them.

    Raises:
        ValueError: this model cannot run without values; the message says why.

    Example:
        >>> predict_memory(load_design_config("./pllava-7b")).total   # doctest: +SKIP
    """
    with torch.device(META):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()
    num_frames = config.num_frames if num_frames is None else num_frames
    if config.num_prompt_tokens():
        # IVA moves the features of long videos off the device, which is not possible without values.
        model.config.max_frames_on_device = num_frames
    inputs = make_inputs(config, dtype, num_frames, text_tokens, sound_frames)
    own = [*model.parameters(), *model.buffers()]
    counter = CpuBytes(own, inputs.values())
    attention = FusedAttention(lambda *tensors: counter.take(attention_bytes(*tensors)))
    try:
        with torch.no_grad(), attention, counter:
            output = model(**inputs, logits_to_keep=1, use_cache=True)
    # Parts of a model that need values fail in many ways on the meta device.
    except (NotImplementedError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        reason = one_line(error, 120)
        raise ValueError(f"The memory of this {config.model_type} cannot be predicted ({reason}).") from error
    del output
    known = unique_bytes(own) if weights is None else weights
    media = unique_bytes(value for value in inputs.values() if value.device.type == META)
    if is_mapped and weights is None:
        # While a checkpoint is loaded, all of its weights are in memory for a moment.
        first, later = (max(known, media + peak) for peak in (counter.first_peak, counter.later_peak))
    else:
        first = later = known + media + counter.most_beside_weights
    return MemoryPrediction(
        dtype=str(dtype).removeprefix("torch."),
        num_frames=num_frames,
        text_tokens=text_tokens,
        weights=known,
        inputs=media,
        activations=counter.peak,
        total=known + media + counter.peak,
        cpu_first_answer=first,
        cpu_later_answers=later,
        sound_frames=sound_frames,
    )


def make_inputs(
    config: Any, dtype: torch.dtype, num_frames: int, text_tokens: int, sound_frames: int | None = None
) -> dict[str, torch.Tensor]:
    """What a processor returns for a question on a video. Frames and sound are on the meta device, without values.

    Args:
        config: configuration of any design.
        dtype: type of frames and sound.
        num_frames: frames of the video.
        text_tokens: tokens of the prompt besides the media.
        sound_frames: filter-bank frames of the sound; no sound by default.

    Raises:
        ValueError: the size of the frames is not in the configuration.
    """
    ids = [config.video_token_id] * config.num_video_tokens(num_frames)
    media: dict[str, torch.Tensor] = {"num_video_frames": torch.tensor([num_frames])}
    height, width = _frame_size(config)
    frames = torch.empty(num_frames, 3, height, width, device=META, dtype=dtype)
    if config.model_type == "linvt":
        media["pixel_values_videos"] = frames
        media["question_input_ids"] = torch.tensor([_text_ids(config, text_tokens)])
        media["question_attention_mask"] = torch.ones(1, text_tokens, dtype=torch.long)
        media["video_frame_times"] = torch.arange(num_frames, dtype=torch.float32).unsqueeze(0)
    else:
        media["pixel_values_videos"] = frames.unsqueeze(0)
    if sound_frames is not None:
        ids += [config.audio_token_id] * config.num_audio_tokens(sound_frames)
        bins = config.audio_config.num_mel_bins
        media["input_features"] = torch.empty(1, sound_frames, bins, device=META, dtype=dtype)
        media["input_features_mask"] = torch.ones(1, sound_frames, dtype=torch.long)
    ids += _text_ids(config, text_tokens) + [config.query_token_id] * config.num_prompt_tokens()
    # A LinVT may use one id for images and videos; here, it stands for a video.
    placeholders = config.placeholder_ids()
    kinds = {placeholders.get(name): number for number, name in enumerate(("image", "video", "audio"), start=1)}
    types = [kinds.get(token, 0) for token in ids]
    prompt = {"input_ids": ids, "attention_mask": [1] * len(ids), "mm_token_type_ids": types}
    return {**{name: torch.tensor([values]) for name, values in prompt.items()}, **media}


def _text_ids(config: Any, count: int) -> list[int]:
    """Ids that are no placeholders; different ones, as long as the vocabulary has them."""
    special = {*config.placeholder_ids().values(), config.query_token_id}
    vocabulary = range(config.get_text_config().vocab_size)
    words = list(islice((number for number in vocabulary if number not in special), count))
    return list(islice(cycle(words), count))


def _frame_size(config: Any) -> tuple[int, int]:
    """Height and width of the frames: the size that the tower was made for."""
    if (size := config.required_frame_size()) is not None:
        return size
    side = getattr(config.tower_config(), "image_size", None)
    if side is None:
        raise ValueError(f"The size of the frames of this {config.model_type} is not in its configuration.")
    return (side, side) if isinstance(side, int) else (int(side[0]), int(side[1]))


__all__ = [
    "DTYPES",
    "HOW",
    "MemoryPrediction",
    "filter_bank_frames",
    "make_inputs",
    "predict_memory",
    "prompt_tokens",
    "sound_seconds",
]
