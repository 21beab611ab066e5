"""Sound -> the Kaldi fbank that BEATs hears, in NumPy."""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank, window_function
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import AudioKwargs
from transformers.utils import TensorType

from .errors import UnsupportedSamples, check_sampling_rate
from .media_audio_windows import WINDOW_POSITIONS, WindowPosition, window
from .video_llm_option_names import refuse_unknown

FRAME_SECONDS, STEP_SECONDS = 0.025, 0.01
PREEMPHASIS = 0.97
LOWEST_FREQUENCY = 20.0
ENERGY_FLOOR = 1.1920928955078125e-07  # float32's epsilon; its logarithm, -15.94, is what silence sounds like
MOST_CHANNELS = 64
LOUDEST = 16.0  # a sound may overdrive, but not like 16-bit numbers that were made floats
FULL_SCALE = 2**15  # Kaldi counts in steps of 16-bit sound


class BeatsAudioKwargs(AudioKwargs, total=False):  # type: ignore[call-arg]
    """Options of one call, as in `BeatsFeatureExtractor`."""

    pad_with_silence: bool
    audio_window: WindowPosition
    seed: int | None


class BeatsFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Kaldi fbank (25 ms frames every 10 ms, Povey window, no dither) of sounds; BEATs itself normalises them.

    The defaults are VideoLLaMA2's. It pads every sound with silence to 30 s and listens to all of it: 2998 frames,
    1496 audio tokens. `pad_with_silence=False` keeps the sound's own length, which costs fewer tokens; a checkpoint
    trained with silence has not learnt that.

    Args:
        sampling_rate: rate of the fbank, in Hz.
        num_mel_bins: height of the fbank.
        patch_size: frames of one patch of the encoder; what is left over behind the last whole patch is masked.
        max_seconds: longest sound that is heard.
        pad_with_silence: pad sounds to `max_seconds` with zeros that are heard. If false, rows of a batch are padded
            with frames that `input_features_mask` marks with 0.
        round_to_bfloat16: round the values to what bfloat16 can hold, as the original does (they stay float32).
        audio_window: the part of a longer sound that is heard: "start", "center" or "random" (the original).
        channel: how several channels become one: "mean", or "first" (the original, for audio files).

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_videollm.models.feature_extraction_beats import BeatsFeatureExtractor
    >>> one_second = np.zeros(16000, np.float32)
    >>> BeatsFeatureExtractor()(one_second, return_tensors="pt")["input_features"].shape
    torch.Size([1, 2998, 128])
    >>> BeatsFeatureExtractor(pad_with_silence=False)(one_second)["input_features_mask"].sum()
    np.int64(96)

    ```"""

    model_input_names = ["input_features", "input_features_mask"]  # noqa: RUF012 (as transformers declares it)
    valid_kwargs = BeatsAudioKwargs

    def __init__(
        self,
        sampling_rate: int = 16000,
        num_mel_bins: int = 128,
        patch_size: int = 16,
        max_seconds: float = 30.0,
        pad_with_silence: bool = True,
        round_to_bfloat16: bool = True,
        # Not `window`: transformers leaves an attribute of that name out of the file it saves.
        audio_window: WindowPosition = "start",
        channel: Literal["mean", "first"] = "mean",
        padding_value: float = 0.0,
        **kwargs: Any,
    ) -> None:
        kwargs["feature_size"] = num_mel_bins  # also in saved files, under transformers' name
        super().__init__(sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        if sampling_rate < 1 or num_mel_bins < 1 or patch_size < 1:
            raise ValueError(
                f"sampling_rate={sampling_rate}, num_mel_bins={num_mel_bins} and patch_size={patch_size} must be "
                "positive."
            )
        if channel not in ("mean", "first"):
            raise ValueError(f'channel={channel!r}: choose "mean" or "first".')
        if audio_window not in WINDOW_POSITIONS:
            raise ValueError(f"audio_window={audio_window!r}: choose one of {', '.join(WINDOW_POSITIONS)}.")
        self.num_mel_bins = num_mel_bins
        self.patch_size = patch_size
        self.max_seconds = max_seconds
        self.pad_with_silence = pad_with_silence
        self.round_to_bfloat16 = round_to_bfloat16
        self.audio_window = audio_window
        self.channel = channel
        if self.num_frames(int(max_seconds * sampling_rate)) < patch_size:
            raise ValueError(
                f"max_seconds={max_seconds} is shorter than one patch of {patch_size} frames; give at least "
                f"{self._patch_seconds():g} s."
            )

    def num_frames(self, num_samples: int) -> int:
        """Frames of a sound of `num_samples` at `sampling_rate`: those that lie in it as a whole."""
        frame, step = int(FRAME_SECONDS * self.sampling_rate), int(STEP_SECONDS * self.sampling_rate)
        return max(0, 1 + (num_samples - frame) // step)

    def _patch_seconds(self) -> float:
        return FRAME_SECONDS + (self.patch_size - 1) * STEP_SECONDS

    def __call__(
        self,
        audio: Any,
        sampling_rate: int | None = None,
        return_tensors: str | TensorType | None = None,
        *,
        pad_with_silence: bool | None = None,
        audio_window: WindowPosition | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare one sound or a list of them.

        Args:
            audio: NumPy array or tensor, (samples,) or (channels, samples), or a list of floats; or a list of these.
                Floats lie in [-1, 1]; signed integers are scaled by their range.
            sampling_rate: of `audio`; `None` says that it is the extractor's. Another rate is resampled in the Fourier
                domain as in the original, silence included.
            return_tensors: "pt" or "np" (also without).
            pad_with_silence: instead of the extractor's own.
            audio_window: instead of the extractor's own.
            seed: of the random windows; `None` draws anew at each call.
            kwargs: `padding`, `truncation`, `max_length` and the like, which a processor hands to all modalities, are
                taken and change nothing: `max_seconds` and `pad_with_silence` rule the length.

        Returns:
            `input_features` float32 (sounds, frames, num_mel_bins) and `input_features_mask` int64 (sounds, frames),
            1 for the frames of whole patches of sound (or silence that is heard).

        Raises:
            ValueError: a sound is empty, holds NaN or infinity, has another shape, or (without silence) is shorter
                than one patch.
            UnsupportedSamples: sound of a type that holds no samples (also a `TypeError` and a `ValueError`).
            TypeError: an unknown option.
        """
        known = {*self.valid_kwargs.__annotations__} - {"raw_speech", "load_audio_backend"}
        refuse_unknown(kwargs, known, type(self).__name__)
        rate = self.sampling_rate if sampling_rate is None else check_sampling_rate(sampling_rate)
        silence = self.pad_with_silence if pad_with_silence is None else pad_with_silence
        where = self.audio_window if audio_window is None else audio_window
        generator = np.random.default_rng(seed)
        sounds = [
            window(self.to_mono(sound, f"sound {index}"), self.max_seconds, rate, where, generator)
            for index, sound in enumerate(_list_of_sounds(audio))
        ]
        features = [self._features(sound, rate, silence, index) for index, sound in enumerate(sounds)]
        longest = max(len(feature) for feature in features)
        input_features = np.full((len(features), longest, self.num_mel_bins), self.padding_value, np.float32)
        mask = np.zeros((len(features), longest), np.int64)
        for row, feature in enumerate(features):
            input_features[row, : len(feature)] = feature
            mask[row, : len(feature) // self.patch_size * self.patch_size] = 1
        return BatchFeature({"input_features": input_features, "input_features_mask": mask}, tensor_type=return_tensors)

    def to_mono(self, sound: Any, name: str = "the sound") -> np.ndarray:
        """One channel of a sound, or the mean of all, in floats.

        Args:
            sound: as in a call.
            name: for errors.

        Returns:
            float64 (samples,); in [-1, 1] if `sound` keeps its range.

        Raises:
            UnsupportedSamples, ValueError: see the call.
        """
        wave = _as_array(sound, name)
        if wave.dtype.kind not in "if" or wave.dtype == np.int64:
            raise UnsupportedSamples(
                f"{name} of type {wave.dtype}: give floats in [-1, 1] or integers of 16 or 32 bits."
            )
        if wave.ndim not in (1, 2):
            raise ValueError(
                f"{name} of shape {wave.shape}: give (samples,) or (channels, samples), and several sounds as a list."
            )
        if wave.ndim == 2 and len(wave) > MOST_CHANNELS:
            raise ValueError(
                f"{name} of shape {wave.shape} looks like (samples, channels): transpose it to (channels, samples)."
            )
        if wave.size == 0:
            raise ValueError(f"{name} is empty; leave it out or give silence.")
        scale = 1 + np.iinfo(wave.dtype).max if wave.dtype.kind == "i" else 1
        if not np.isfinite(wave).all():
            raise ValueError(f"{name} holds NaN or infinity; decode the file again.")
        if wave.ndim == 2:
            wave = wave.mean(axis=0, dtype=np.float64) if self.channel == "mean" else wave[0]
        if scale == 1 and (loudest := np.abs(wave).max()) > LOUDEST:
            raise ValueError(
                f"{name} reaches {loudest:g}, but floats lie in [-1, 1]: divide by the range of the integers."
            )
        return wave.astype(np.float64) / scale

    def _features(self, wave: np.ndarray, rate: int, silence: bool, index: int) -> np.ndarray:
        """Mono sound at `rate` -> float32 (frames, num_mel_bins)."""
        if silence:
            wave = np.pad(wave, (0, int(self.max_seconds * rate) - len(wave)))
        if rate != self.sampling_rate:
            wave = resample(wave, -(-len(wave) * self.sampling_rate // rate))
        if self.num_frames(len(wave)) < self.patch_size:
            raise ValueError(
                f"sound {index} of {len(wave) / self.sampling_rate:.3f} s is shorter than one patch "
                f"({self._patch_seconds():g} s); give more of it, or pad_with_silence=True."
            )
        features = kaldi_fbank(wave * FULL_SCALE, self.sampling_rate, self.num_mel_bins).astype(np.float32)
        if self.round_to_bfloat16:
            features = torch.from_numpy(features).bfloat16().float().numpy()
        return features


def kaldi_fbank(wave: np.ndarray, sampling_rate: int = 16000, num_mel_bins: int = 128) -> np.ndarray:
    """Logarithmic mel energies as Kaldi computes them, without dither.

    `transformers.audio_utils.spectrogram` gives the same, frame by frame; here all frames are computed at once.

    Args:
        wave: (samples,), in steps of 16-bit sound.

    Returns:
        float64 (1 + (samples - frame length) // step, num_mel_bins).
    """
    frame, step = int(FRAME_SECONDS * sampling_rate), int(STEP_SECONDS * sampling_rate)
    frames = np.lib.stride_tricks.sliding_window_view(wave, frame)[::step].astype(np.float64)
    frames -= frames.mean(axis=1, keepdims=True)
    # The sample before a frame's first one is taken to be equal to it.
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = (frames - PREEMPHASIS * before) * window_function(frame, "povey", periodic=False)
    fft_length = 1 << (frame - 1).bit_length()
    spectrum = np.fft.rfft(frames, fft_length)
    energies = (spectrum.real**2 + spectrum.imag**2) @ _mel_filters(sampling_rate, num_mel_bins, fft_length)
    return np.log(np.maximum(energies, ENERGY_FLOOR))


@lru_cache(maxsize=8)
def _mel_filters(sampling_rate: int, num_mel_bins: int, fft_length: int) -> np.ndarray:
    """(frequency bins, mel bins), triangles in mel space."""
    with warnings.catch_warnings():
        # With 128 bins at 16 kHz, filter 3 lies between two frequencies: it hears nothing, in Kaldi as well.
        warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
        return mel_filter_bank(
            num_frequency_bins=fft_length // 2 + 1,
            num_mel_filters=num_mel_bins,
            min_frequency=LOWEST_FREQUENCY,
            max_frequency=sampling_rate / 2,
            sampling_rate=sampling_rate,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )


def resample(wave: np.ndarray, num_samples: int) -> np.ndarray:
    """Another number of samples for the same time, by cutting or extending the spectrum of the whole sound.

    Args:
        wave: (samples,), float64.

    Returns:
        float64 (num_samples,). The sound is treated as periodic: its end rings into its beginning.
    """
    spectrum = np.fft.rfft(wave)[: num_samples // 2 + 1]
    smaller = min(len(wave), num_samples)
    if smaller % 2 == 0:
        # The highest frequency of an even length stands for two, of which the other length holds both.
        spectrum[smaller // 2] *= 2.0 if num_samples < len(wave) else 0.5 if num_samples > len(wave) else 1.0
    return np.fft.irfft(spectrum, num_samples) * (num_samples / len(wave))


def _as_array(sound: Any, name: str) -> np.ndarray:
    if isinstance(sound, torch.Tensor):
        sound = sound.detach().cpu()
        sound = sound.float() if sound.is_floating_point() else sound
    try:
        return np.asarray(sound)
    except (ValueError, TypeError, RuntimeError):
        raise UnsupportedSamples(
            f"{name} is no array of samples (a {type(sound).__name__}); give (samples,) or (channels, samples)."
        ) from None


def _list_of_sounds(audio: Any) -> Sequence[Any]:
    """One sound or several as a list."""
    if isinstance(audio, (list, tuple)):
        if len(audio) == 0:
            raise ValueError("There is no sound in the list; leave the audio out.")
        if not np.isscalar(audio[0]):
            return audio
    return [audio]


__all__ = ["BeatsAudioKwargs", "BeatsFeatureExtractor", "kaldi_fbank", "resample"]
