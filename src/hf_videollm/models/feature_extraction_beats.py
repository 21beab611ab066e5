"""Converts audio to the input of BEATs, a fbank (log mel spectrogram) as Kaldi computes it, with NumPy."""

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
ENERGY_FLOOR = 1.1920928955078125e-07  # float32's epsilon; its logarithm, -15.94, is the value of silence
MOST_CHANNELS = 64
LOUDEST = 16.0  # floats may exceed 1; values above this are probably 16-bit integers that were not scaled to [-1, 1]
FULL_SCALE = 2**15  # Kaldi expects samples in the range of 16-bit integers


class BeatsAudioKwargs(AudioKwargs, total=False):  # type: ignore[call-arg]
    """Options of one call of `BeatsFeatureExtractor`."""

    pad_with_silence: bool
    audio_window: WindowPosition
    seed: int | None


class BeatsFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Computes the fbank (log mel spectrogram) of audios as Kaldi does: 25 ms frames every 10 ms, Povey window, no dither.
    The BEATs model normalises it.

    The defaults are VideoLLaMA2's, which pads every audio with silence to 30 s and encodes all of it: 2998 frames,
    1496 audio tokens. With `pad_with_silence=False`, audio keeps its length and so needs fewer tokens. But a checkpoint
    that was trained with the silence has never seen such input.

    Args:
        sampling_rate: sampling rate, in Hz, of the audio from which the fbank is computed.
        num_mel_bins: number of mel bins in the fbank.
        patch_size: number of frames in one patch of the encoder; frames after the last whole patch are masked.
        max_seconds: longer audio is cut to this length.
        pad_with_silence: pad audios to `max_seconds` with zeros, which the model treats as audio. If false, the rows of
            a batch are padded with frames for which `input_features_mask` is 0.
        round_to_bfloat16: round the values to bfloat16 precision, as VideoLLaMA2's code does; they remain float32.
        audio_window: the part of a longer audio that is used: "start", "center" or "random" (as in VideoLLaMA2's code).
        channel: how several channels become one: "mean", or "first" (as in VideoLLaMA2's code for audio files).

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
        # The name is not `window`, because transformers does not save an attribute of that name.
        audio_window: WindowPosition = "start",
        channel: Literal["mean", "first"] = "mean",
        padding_value: float = 0.0,
        **kwargs: Any,
    ) -> None:
        kwargs["feature_size"] = num_mel_bins  # transformers saves the same number under this name, too
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
        """Number of whole frames in an audio of `num_samples` samples at `sampling_rate`."""
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
        """Computes the fbank of one audio or of a list of audios.

        Args:
            audio: NumPy array or tensor, (samples,) or (channels, samples), or a list of floats; or a list of these.
                Floats must lie in [-1, 1]; signed integers are divided by the range of their type.
            sampling_rate: sampling rate of `audio` in Hz; `None` means that of the extractor. Audio with another rate
                is padded with silence and then resampled in the Fourier domain, as in VideoLLaMA2's code.
            return_tensors: "pt" for tensors; "np" or `None` for NumPy arrays.
            pad_with_silence: replaces the extractor's setting in this call.
            audio_window: replaces the extractor's setting in this call.
            seed: seed of the random windows; with `None` each call draws other windows.
            kwargs: options that a processor passes to all modalities (`padding`, `truncation`, `max_length`, ...) are
                accepted and ignored: only `max_seconds` and `pad_with_silence` decide the length.

        Returns:
            `input_features` float32 (audios, frames, num_mel_bins) and `input_features_mask` int64 (audios, frames).
            The mask is 1 for the frames of all whole patches of an audio (including its silence), 0 for other frames.

        Raises:
            ValueError: an audio is empty, has NaN or infinity, has the wrong number of dimensions, or is shorter than
                one patch (which happens only without silence).
            UnsupportedSamples: an array has a type that is not one of audio samples. This error is also a `TypeError`
                and a `ValueError`.
            TypeError: an option is not known.
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
        """Checks one audio, converts it to floats, and averages its channels (or takes the first, see `channel`).

        Args:
            sound: one audio, as in `__call__`.
            name: name of the audio in error messages.

        Returns:
            float64 (samples,), in [-1, 1] if the input is in its allowed range.

        Raises:
            UnsupportedSamples, ValueError: as in `__call__`.
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
                f"{name} reaches {loudest:g}, but floats lie in [-1, 1]: if the samples were integers, divide them by "
                "the range of their type."
            )
        return wave.astype(np.float64) / scale

    def _features(self, wave: np.ndarray, rate: int, silence: bool, index: int) -> np.ndarray:
        """The fbank of one mono waveform (samples,) at `rate` Hz, as float32 (frames, num_mel_bins)."""
        if silence:
            wave = np.pad(wave, (0, int(self.max_seconds * rate) - len(wave)))
        if rate != self.sampling_rate:
            wave = resample(wave, -(-len(wave) * self.sampling_rate // rate))
        if self.num_frames(len(wave)) < self.patch_size:
            raise ValueError(
                f"sound {index} of {len(wave) / self.sampling_rate:.3f} s is shorter than one patch "
                f"({self._patch_seconds():g} s); pass longer audio, or pad_with_silence=True."
            )
        features = kaldi_fbank(wave * FULL_SCALE, self.sampling_rate, self.num_mel_bins).astype(np.float32)
        if self.round_to_bfloat16:
            features = torch.from_numpy(features).bfloat16().float().numpy()
        return features


def kaldi_fbank(wave: np.ndarray, sampling_rate: int = 16000, num_mel_bins: int = 128) -> np.ndarray:
    """The logarithm of mel energies, as Kaldi computes them, without dither.

    `transformers.audio_utils.spectrogram` returns the same numbers, but loops over the frames; this function computes
    all frames at once.

    Args:
        wave: (samples,), in the range of 16-bit integers.

    Returns:
        float64 (1 + (samples - frame length) // step, num_mel_bins).
    """
    frame, step = int(FRAME_SECONDS * sampling_rate), int(STEP_SECONDS * sampling_rate)
    frames = np.lib.stride_tricks.sliding_window_view(wave, frame)[::step].astype(np.float64)
    frames -= frames.mean(axis=1, keepdims=True)
    # Pre-emphasis subtracts the previous sample; for the first sample of a frame, the sample itself is used.
    previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = (frames - PREEMPHASIS * previous) * window_function(frame, "povey", periodic=False)
    fft_length = 1 << (frame - 1).bit_length()
    spectrum = np.fft.rfft(frames, fft_length)
    energies = (spectrum.real**2 + spectrum.imag**2) @ _mel_filters(sampling_rate, num_mel_bins, fft_length)
    return np.log(np.maximum(energies, ENERGY_FLOOR))


@lru_cache(maxsize=8)
def _mel_filters(sampling_rate: int, num_mel_bins: int, fft_length: int) -> np.ndarray:
    """The mel filter bank, (frequency bins, mel bins), with filters that are triangles on the mel scale."""
    with warnings.catch_warnings():
        # With 128 bins at 16 kHz, filter 3 lies between two frequencies of the spectrum, so its output is always 0.
        # Kaldi has the same filter; the warning about it is hidden.
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
    """Resamples a waveform to `num_samples` samples by cutting or zero-padding the spectrum of the whole waveform.

    Args:
        wave: (samples,), float64.
        num_samples: number of samples of the result, which has the same duration.

    Returns:
        float64 (num_samples,). The method treats the waveform as periodic, so a sudden step between its end and its
        beginning causes ringing at both.
    """
    spectrum = np.fft.rfft(wave)[: num_samples // 2 + 1]
    smaller = min(len(wave), num_samples)
    if smaller % 2 == 0:
        # In a spectrum of even length, the last entry (Nyquist) is the sum of a positive and a negative frequency. In
        # the longer spectrum these are two entries, so the value is doubled or halved.
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
    """One audio, or several, as a list of audios."""
    if isinstance(audio, (list, tuple)):
        if len(audio) == 0:
            raise ValueError("There is no sound in the list; leave the audio out.")
        if not np.isscalar(audio[0]):
            return audio
    return [audio]


__all__ = ["BeatsAudioKwargs", "BeatsFeatureExtractor", "kaldi_fbank", "resample"]
