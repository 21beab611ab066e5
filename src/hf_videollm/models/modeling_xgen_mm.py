"""XGen-MM, also called BLIP-3 (Xue et al., 2024): transformers' LLaVA with a perceiver resampler as its projector.

    image (3,H,W) -> SigLIP -> (patches, Dv) -> perceiver resampler -> (128, width of the language model) -> Phi-3

The resampler is that of the public code (salesforce/LAVIS, branch xgen-mm, `open_flamingo/src/helpers.py`): learned
latents attend to the patches and to themselves. Each image is one view of the tower's size; the tiles of the public
code ("any-res") are not supported.
"""

import copy
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, LlavaForConditionalGeneration, LlavaModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .configuration_xgen_mm import XgenMMConfig
from .modeling_video_llm import VideoLlmPreTrainedModel
from .video_llm_trust import trust_of
from .video_llm_vision_tower import check_frames


class XgenMMResamplerLayer(GradientCheckpointingLayer):
    """The latents attend to the patches and to themselves; then an MLP follows. Norms before both, and no biases."""

    def __init__(self, config: XgenMMConfig) -> None:
        super().__init__()
        width, inner = config.vision_config.hidden_size, config.resampler_num_heads * config.resampler_head_dim
        self.num_heads = config.resampler_num_heads
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.kv_proj = nn.Linear(width, 2 * inner, bias=False)
        self.out_proj = nn.Linear(inner, width, bias=False)
        self.norm_mlp = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.resampler_mlp_ratio * width, bias=False)
        self.fc2 = nn.Linear(config.resampler_mlp_ratio * width, width, bias=False)

    def forward(self, latents: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """
        Args:
            latents: `(images, latents, width)`.
            patches: `(images, patches, width)`.

        Returns:
            As `latents`.
        """
        normed = self.norm_latents(latents)
        context = torch.cat([self.norm_media(patches), normed], dim=1)
        heads = [
            states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for states in (self.q_proj(normed), *self.kv_proj(context).chunk(2, dim=-1))
        ]
        attended = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(-2)
        latents = latents + self.out_proj(attended)
        return latents + self.fc2(F.gelu(self.fc1(self.norm_mlp(latents))))


class XgenMMResampler(nn.Module):
    """Patches of an image -> a fixed number of vectors for the language model."""

    def __init__(self, config: XgenMMConfig) -> None:
        super().__init__()
        width = config.vision_config.hidden_size
        self.latents = nn.Parameter(torch.empty(config.num_query_tokens, width))
        self.layers = nn.ModuleList(XgenMMResamplerLayer(config) for _ in range(config.resampler_num_layers))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, config.text_config.hidden_size)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """
        Args:
            patches: `(images, patches, vision_width)`.

        Returns:
            `(images, num_query_tokens, text_width)`.
        """
        latents = self.latents.expand(len(patches), -1, -1)
        for layer in self.layers:
            latents = layer(latents, patches)
        return self.projection(self.norm(latents))


class XgenMMPreTrainedModel(VideoLlmPreTrainedModel):
    """Base of the models of XGen-MM: class attributes that transformers reads, and the initialisation of weights."""

    config_class = XgenMMConfig
    config: XgenMMConfig
    input_modalities: tuple[str, ...] = ("image", "text")
    # The forward of the resampler uses a parameter that is in no layer, so libraries must not split the resampler
    # between devices.
    _no_split_modules: ClassVar[list[str]] = ["XgenMMResampler"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, XgenMMResampler):
            init.normal_(module.latents)


class XgenMMModel(XgenMMPreTrainedModel, LlavaModel):
    """XGen-MM without a head."""

    # The model without a head may load a checkpoint with a head. Any other tensor that it lacks is an error.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^lm_head\."]

    def __init__(self, config: XgenMMConfig) -> None:
        # Models change their configuration (attention, type, vocab_size) and those of their parts, so they get a copy.
        config = copy.deepcopy(config)
        # LLaVA's own `__init__` is skipped: it would make LLaVA's projector, whose fields this configuration lacks.
        super(LlavaModel, self).__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config, **trust_of(config.vision_config))
        self.multi_modal_projector = XgenMMResampler(config)
        self.language_model = AutoModel.from_config(config.text_config, **trust_of(config.text_config))
        self.post_init()

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Visual tokens of images.

        Args:
            pixel_values: `(images, 3, height, width)`, images of all rows in row order.
            kwargs: `output_hidden_states` and `output_attentions` of the tower. Other options, such as LLaVA's choice
                of a layer, are ignored.

        Returns:
            `pooler_output` is a list with one `(num_query_tokens, text_width)` tensor per image.

        Raises:
            ValueError: the images do not have the size of the tower.
        """
        check_frames(pixel_values, self.config.vision_config)
        options = {name: kwargs[name] for name in ("output_hidden_states", "output_attentions") if name in kwargs}
        outputs = self.vision_tower(pixel_values, return_dict=True, **options)
        outputs.pooler_output = list(self.multi_modal_projector(outputs.last_hidden_state))
        return outputs


class XgenMMForConditionalGeneration(XgenMMPreTrainedModel, LlavaForConditionalGeneration):
    """XGen-MM that answers questions on images.

    Example:

    ```python
    model = AutoModelForImageTextToText.from_pretrained("./xgen-mm")  # from `hf-videollm convert xgen-mm`
    ```"""

    def __init__(self, config: XgenMMConfig) -> None:
        # LLaVA's own `__init__` is skipped, because it would first create a whole LLaVA model.
        super(LlavaForConditionalGeneration, self).__init__(copy.deepcopy(config))
        self.model = XgenMMModel(self.config)
        # One configuration for both, which is a copy of the one that was passed in.
        self.config = config = self.model.config
        text_config = config.text_config
        self.lm_head: nn.Module = nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=config.lm_head_bias)
        self.post_init()


__all__ = ["XgenMMForConditionalGeneration", "XgenMMModel", "XgenMMPreTrainedModel", "XgenMMResampler"]
