"""Configuration of BEATs (Chen et al., 2023), the audio tower of VideoLLaMA2-AV."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .video_llm_checkpoint_config import CheckedConfigMixin, check_activation


def num_audio_tokens(num_frames: int, patch_size: int = 16, num_mel_bins: int = 128) -> int:
    """Number of vectors that BEATs returns for a fbank (log mel spectrogram). Model and processor both use this rule.

    Args:
        num_frames: number of frames in the fbank that are not padding (`input_features_mask` is 1).
        patch_size: height and width of a patch, in mel bins and in frames.
        num_mel_bins: number of mel bins in the fbank.

    Returns:
        The number of whole patches in time, times the number of patches in frequency.
    """
    return (num_frames // patch_size) * (num_mel_bins // patch_size)


@strict
class BeatsConfig(CheckedConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a BEATs encoder. The defaults are those of BEATs iter3+ (AS2M), which VideoLLaMA2-AV uses.

    Microsoft's fine-tuned checkpoint also has a classifier (`predictor.*`, 527 classes of AudioSet). It is not part of
    this model.

    num_mel_bins (`int`):
        Number of mel bins in the fbank (log mel spectrogram).
    patch_size (`int`):
        Height and width of a patch of the fbank, in mel bins and frames; patches do not overlap.
    patch_embedding_dim (`int`):
        Width of a patch vector before it is projected to `hidden_size`.
    conv_pos_kernel (`int`):
        Kernel size, in tokens, of the convolutional position embedding.
    conv_pos_groups (`int`):
        Number of groups of that convolution.
    num_buckets (`int`):
        Number of rows (buckets) in the table of relative positions. One half is for keys before the query, the other
        half for keys after it.
    max_distance (`int`):
        In each half, all distances of at least this many tokens share the last bucket.
    deep_norm (`bool`):
        Multiply the residual (the input of a sub-layer) by (2 * num_hidden_layers) ** 0.25 before it is added and
        normalised.
    layerdrop (`float`):
        Probability that a layer is skipped in a training step.
    fbank_mean (`float`):
        This number is subtracted from the fbank.
    fbank_std (`float`):
        The fbank is then divided by twice this number.

    Example:

    ```python
    >>> from hf_videollm.models.configuration_beats import BeatsConfig
    >>> from hf_videollm.models.modeling_beats import BeatsModel
    >>> config = BeatsConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
    ...                      patch_embedding_dim=32, conv_pos_kernel=16, conv_pos_groups=4)
    >>> config.num_audio_tokens(2998)
    1496
    >>> model = BeatsModel(config)

    ```"""

    model_type = "beats"

    num_mel_bins: int = 128
    patch_size: int = 16
    patch_embedding_dim: int = 512
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    conv_pos_kernel: int = 128
    conv_pos_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800
    deep_norm: bool = True
    layer_norm_eps: float = 1e-5
    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    layerdrop: float | int = 0.05
    fbank_mean: float = 15.41663
    fbank_std: float = 6.55582
    initializer_range: float = 0.02

    def num_audio_tokens(self, num_frames: int) -> int:
        """Number of vectors for a fbank of `num_frames` frames; see the function `num_audio_tokens` of this file."""
        return num_audio_tokens(num_frames, self.patch_size, self.num_mel_bins)

    def validate_architecture(self) -> None:
        """Check that the numbers fit together. transformers calls this when it creates and when it saves a config."""
        for name in ("num_mel_bins", "patch_size", "patch_embedding_dim", "hidden_size", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        check_activation("hidden_act", self.hidden_act)
        for divisor, number in (
            ("patch_size", "num_mel_bins"),
            ("num_attention_heads", "hidden_size"),
            ("conv_pos_groups", "hidden_size"),
        ):
            if getattr(self, number) % getattr(self, divisor):
                raise ValueError(
                    f"{number} ({getattr(self, number)}) must be a multiple of {divisor} ({getattr(self, divisor)})."
                )
        # Half of the buckets are for one direction. Of these, one half holds a bucket for each short distance. The
        # buckets of the other half are for ranges of distances, whose sizes grow logarithmically up to `max_distance`.
        if self.num_buckets < 4 or self.num_buckets % 4 or self.max_distance <= self.num_buckets // 4:
            raise ValueError(
                "num_buckets must be a multiple of 4 and max_distance more than a quarter of it, not "
                f"{self.num_buckets} and {self.max_distance}."
            )


__all__ = ["BeatsConfig", "num_audio_tokens"]
