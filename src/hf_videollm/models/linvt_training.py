"""What training asks of LinVT: media that were forgotten are refused, and no part is left out of a step."""

from collections.abc import Callable
from typing import Any

import torch
from transformers.utils import torch_compilable_check

from .linvt_backbones import blank_image, encode_images, has_deepstack
from .media_blank import is_spread, must_run


class LinVTTrainingMixin:
    """To be put before the model without a head."""

    config: Any
    backbone: Any
    linvt: Any
    placeholder_masks: Callable[..., tuple[torch.Tensor, torch.Tensor]]

    def left_out(self, has_videos: bool, has_images: bool, states: torch.Tensor) -> list[torch.Tensor]:
        """What a batch in training did not run through, for `reach`."""
        left_out: list[torch.Tensor] = []
        if not has_videos and must_run([self.linvt]):
            token = states.new_zeros(1, 1, 1, states.shape[-1])
            left_out += [self.linvt(token)]
        if not has_images and not (has_videos and (self.config.mix_deepstack or not has_deepstack(self.backbone))):
            left_out += self._left_out_of_backbone(states.device)
        return left_out

    def _left_out_of_backbone(self, device: torch.device) -> list[torch.Tensor]:
        language = {id(parameter) for parameter in self.backbone.get_decoder().parameters()}
        seeing = [parameter for parameter in self.backbone.parameters() if id(parameter) not in language]
        if not any(parameter.requires_grad or is_spread(parameter) for parameter in seeing):
            return []
        if (media := blank_image(self.backbone, device)) is None:
            # How such an image looks, its image processor alone knows: so the weights themselves, if they are here.
            return [parameter for parameter in seeing if parameter.requires_grad and not is_spread(parameter)]
        features = encode_images(self.backbone, media)
        return [*features.tokens, *(features.deepstack or [])]

    def refuse_forgotten_media(
        self, input_ids: torch.Tensor, mm_token_type_ids: torch.Tensor | None, has_images: bool, run: int = 1
    ) -> None:
        """A batch that lost its media would be answered, or trained on, as if images and videos said nothing.

        Args:
            input_ids: `(batch, length)`, of a batch without videos.
            mm_token_type_ids: see `placeholder_masks`. Without them, where images and videos share an id, placeholders
                may be of either.
            has_images: images came.
            run: so many placeholders in a row are refused.

        Raises:
            ValueError: there are placeholders of media that did not come.
        """
        image_mask, video_mask = self.placeholder_masks(input_ids, mm_token_type_ids)
        left = video_mask if has_images else video_mask | image_mask
        if run <= left.shape[1]:
            torch_compilable_check(
                ~left.unfold(1, run, 1).all(-1).any(),
                f"The prompts hold {'video' if has_images else 'image or video'} placeholders, but no frames came with "
                "them. Pass everything the processor returns (pixel_values_videos, num_video_frames, pixel_values, "
                "...); to train, use hf_videollm.training.collator.VideoDataCollator, which keeps it.",
            )


__all__ = ["LinVTTrainingMixin"]
