"""Configuration of BEATs (Chen et al., 2023: audio pre-training with acoustic tokenizers), the ear of VideoLLaMA2."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .video_llm_checkpoint_config import CheckedConfigMixin


def num_audio_tokens(num_frames: int, patch_size: int = 16, num_mel_bins: int = 128) -> int:
    """Vectors that BEATs gives for a fbank; the one rule that model and processor count by.

    Args:
        num_frames: frames of the fbank that are heard (those that `input_features_mask` marks with 1).
        patch_size: side of a patch, in frames and in mel bins.
        num_mel_bins: height of the fbank.

    Returns:
        Patches in time, where an incomplete last one is left out, times patches in frequency.
    """
    return (num_frames // patch_size) * (num_mel_bins // patch_size)


@strict
class BeatsConfig(CheckedConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a BEATs encoder. The defaults are those of BEATs iter3+ (AS2M), which VideoLLaMA2-AV uses.

    The classifier that Microsoft's fine-tuned checkpoint ends with (`predictor.*`, 527 classes of AudioSet) is not part
    of the model: nothing here reads it.

    num_mel_bins (`int`):
        Height of the fbank.
    patch_size (`int`):
        Side of a square patch of the fbank; patches do not overlap.
    patch_embedding_dim (`int`):
        Width of a patch before it is projected to `hidden_size`.
    conv_pos_kernel (`int`):
        Positions that the convolutional position embedding sees.
    conv_pos_groups (`int`):
        Groups of that convolution.
    num_buckets (`int`):
        Rows of the relative position table; half of them for either direction.
    max_distance (`int`):
        Distance in tokens from which on all share the last bucket.
    deep_norm (`bool`):
        Weigh the residual branch by (2 * num_hidden_layers) ** 0.25 before each layer norm.
    layerdrop (`float`):
        Probability that a layer is passed over in training.
    fbank_mean (`float`):
        Subtracted from the fbank.
    fbank_std (`float`):
        The fbank is divided by twice this.

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
        """Vectors of a fbank of `num_frames` frames; see the function of this name."""
        return num_audio_tokens(num_frames, self.patch_size, self.num_mel_bins)

    def validate_architecture(self) -> None:
        """Checked by transformers when a config is made and when it is saved."""
        for name in ("num_mel_bins", "patch_size", "patch_embedding_dim", "hidden_size", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for divisor, number in (
            ("patch_size", "num_mel_bins"),
            ("num_attention_heads", "hidden_size"),
            ("conv_pos_groups", "hidden_size"),
        ):
            if getattr(self, number) % getattr(self, divisor):
                raise ValueError(
                    f"{number} ({getattr(self, number)}) must be a multiple of {divisor} ({getattr(self, divisor)})."
                )
        # Half of the buckets serve one direction, and half of these are exact before the logarithm begins.
        if self.num_buckets < 4 or self.num_buckets % 4 or self.max_distance <= self.num_buckets // 4:
            raise ValueError(
                "num_buckets must be a multiple of 4 and max_distance more than a quarter of it, not "
                f"{self.num_buckets} and {self.max_distance}."
            )


__all__ = ["BeatsConfig", "num_audio_tokens"]
