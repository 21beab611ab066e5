"""LinVT before a tiny LLaVA and a tiny Qwen2-VL, for the shared invariants."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from factory import (
    IMAGE,
    TEXT_TOWERS,
    VIDEO,
    VISION_TOWERS,
    DesignCase,
    Row,
    random_frames,
    random_text,
)
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPImageProcessor, Qwen2VLImageProcessor

from hf_videollm.models.linvt_frames import frame_inputs
from hf_videollm.models.modeling_linvt import LinVTForCausalLM

# Frames are random numbers of the right size already.
AS_THEY_ARE = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False}
MODULE = {
    "num_layers": 1,
    "num_attention_heads": 2,
    "num_selected_tokens": 10,
    "num_queries": [2, 1],
    "pool_windows": [1, 2],
}
IMAGE_PROCESSORS: dict[str, Any] = {
    "llava": CLIPImageProcessor(**AS_THEY_ARE),
    "qwen2_vl": Qwen2VLImageProcessor(patch_size=4, merge_size=2, **AS_THEY_ARE),
}
# Of one image of 16 pixels, with patches of 4.
IMAGE_TOKENS = {"llava": 16, "qwen2_vl": 4}


@dataclass(frozen=True)
class LinVTRow(Row):
    """A prompt with its media, the times of its videos' frames, and the question they are read for.

    Attributes:
        family: `model_type` of the image-LLM.
        question: ids; none of the question if empty.
        times: seconds of the frames of each video.
    """

    family: str = "llava"
    question: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    times: tuple[torch.Tensor, ...] = ()

    @staticmethod
    def join_media(rows: Sequence[Row], garbage: float) -> dict[str, torch.Tensor]:
        first: Any = rows[0]
        processor, batch = IMAGE_PROCESSORS[first.family], {}
        if images := [image[0] for row in rows for image in row.images]:
            made = frame_inputs(processor, first.family, [images])
            batch |= {key.removesuffix("_videos"): value for key, value in made.items() if key != "num_video_frames"}
        if videos := [list(video) for row in rows for video in row.videos]:
            batch |= frame_inputs(processor, first.family, videos)
            batch["video_frame_times"] = pad_sequence([times for row in rows for times in row.times], True, garbage)
            questions = [row.question for row in rows]
            batch["question_input_ids"] = pad_sequence(questions, True, 7)
            ones = [torch.ones(len(question), dtype=torch.long) for question in questions]
            batch["question_attention_mask"] = pad_sequence(ones, True, 0)
            if not any(map(len, questions)):
                batch |= {name: torch.zeros(len(rows), 1, dtype=torch.long) for name in batch if "question" in name}
        return batch


@dataclass(frozen=True)
class LinVTCase(DesignCase):
    """Rows with questions of several lengths, every third of them without."""

    def _make_row(self, media: Sequence[str], index: int, generator: torch.Generator) -> LinVTRow:
        family = self.config["backbone_config"]["model_type"]
        text = [random_text(2 + index % 3, generator)]
        clips: dict[str, list[torch.Tensor]] = {"i": [], "v": []}
        times = []
        for medium in media:
            num_frames = 1 if medium == "i" else int(medium[1:])
            clips[medium[0]].append(random_frames(num_frames, generator))
            if medium == "i":
                text.append(torch.full((IMAGE_TOKENS[family],), IMAGE))
            else:
                text.append(torch.full((sum(MODULE["num_queries"]),), VIDEO))
                times.append(torch.rand(num_frames, generator=generator).cumsum(0))
            text.append(random_text(1 + index % 2, generator))
        text.append(random_text(2, generator))
        question = random_text((3, 0, 5)[index % 3], generator)
        videos, images = tuple(clips["v"]), tuple(clips["i"])
        return LinVTRow(torch.cat(text), videos, images, family=family, question=question, times=tuple(times))


def linvt_case(name: str, backbone: dict[str, Any]) -> LinVTCase:
    """LinVT before the image-LLM of this configuration."""
    config = {"backbone_config": {**backbone, "image_token_id": IMAGE}, "linvt_config": MODULE, "video_token_id": VIDEO}
    return LinVTCase(name=f"linvt-{name}", model_class=LinVTForCausalLM, config=config)


ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
LINVT_CASES = [
    linvt_case(
        "llava",
        {
            "model_type": "llava",
            "vision_config": VISION_TOWERS["clip_vision_model"],
            "vision_feature_layer": -1,
            "text_config": TEXT_TOWERS["llama"],
        },
    ),
    linvt_case(
        "qwen2_vl",
        {
            "model_type": "qwen2_vl",
            "vision_config": {
                "depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "embed_dim": 16,
                "hidden_size": 32, "mlp_ratio": 2,
            },
            "text_config": {**TEXT_TOWERS["qwen2"], "model_type": "qwen2_vl_text", "rope_parameters": ROPE},
        },
    ),
]  # fmt: skip
