"""Training of LinVT: prompts whose media were not passed are refused, and every step gives every part a gradient.

Distributed training waits for gradients of all trained parts, even of those that a batch does not use.
"""

from typing import Any

import torch
from transformers.utils import torch_compilable_check

from .linvt_embedding import LinVTEmbeddingMixin
from .media_blank import is_spread, must_run


class LinVTTrainingMixin(LinVTEmbeddingMixin):
    """For the model without a head."""

    linvt: Any

    def left_out(self, has_videos: bool, has_images: bool, states: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of the parts that a batch did not use, for a blank input; `reach` gives these parts gradients of 0.

        Args:
            has_videos: whether the batch has videos.
            has_images: whether the batch has images.
            states: hidden states of the language model, used for their width, dtype and device.
        """
        left_out: list[torch.Tensor] = []
        if not has_videos and must_run([self.linvt]):
            token = states.new_zeros(1, 1, 1, states.shape[-1])
            left_out += [self.linvt(token)]
        if not has_images and not (has_videos and (self.config.mix_deepstack or not self.image_llm.has_deepstack)):
            left_out += self._blank_image_outputs(states.device)
        return left_out

    def _blank_image_outputs(self, device: torch.device) -> list[torch.Tensor]:
        """Outputs of the tower and projector of the image-LLM for a blank image."""
        language = {id(parameter) for parameter in self.backbone.get_decoder().parameters()}
        visual = [parameter for parameter in self.backbone.parameters() if id(parameter) not in language]
        if not any(parameter.requires_grad or is_spread(parameter) for parameter in visual):
            return []
        if (media := self.image_llm.blank_image(device)) is None:
            # Only the family's image processor could make a blank image. So the weights themselves are returned instead
            # of outputs: `reach` gives them gradients of 0, too.
            return [parameter for parameter in visual if parameter.requires_grad and not is_spread(parameter)]
        features = self.image_llm.encode_images(media)
        return [*features.tokens, *(features.deepstack or [])]

    def refuse_forgotten_media(
        self, input_ids: torch.Tensor, mm_token_type_ids: torch.Tensor | None, has_images: bool, run: int = 1
    ) -> None:
        """Refuse placeholders whose media were not passed.

        Otherwise the model would read the embeddings of the placeholders as if they were images and videos.

        Args:
            input_ids: `(batch, length)`, of a batch without videos.
            mm_token_type_ids: see `placeholder_masks`. If it is `None` and images and videos share an id, it is unknown
                to which of the two a placeholder belongs.
            has_images: whether the batch has images.
            run: placeholders are refused if at least this many of them stand side by side.

        Raises:
            ValueError: the prompts hold placeholders, but the batch holds no media for them.
        """
        image_mask, video_mask = self.placeholder_masks(input_ids, mm_token_type_ids)
        unfilled = video_mask if has_images else video_mask | image_mask
        if run <= unfilled.shape[1]:
            torch_compilable_check(
                ~unfilled.unfold(1, run, 1).all(-1).any(),
                f"The prompts hold {'video' if has_images else 'image or video'} placeholders, but no frames came with "
                "them. Pass everything that the processor returns (pixel_values_videos, num_video_frames, "
                "pixel_values, ...); to train with TRL, make the trainer by hf_videollm.make_trainer, make_dpo_trainer "
                "or make_grpo_trainer.",
            )


__all__ = ["LinVTTrainingMixin"]
