"""Where the families of image-LLMs differ, as tables that LinVT looks into by `model_type`.

`docs/measured/linvt_backbones.md` lists the families that were tried.
"""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class FrameCall:
    """How the image processor of a family gives one image per frame.

    Args:
        layout: `"flat"`, all frames in one list; `"videos"`, one list per video; `"frames"`, one list per frame.
        options: switch off tiles.
    """

    layout: Literal["flat", "videos", "frames"] = "flat"
    options: dict[str, Any] = field(default_factory=dict)


# Families that are not here take a flat list.
FRAME_CALLS: dict[str, FrameCall] = {
    "internvl": FrameCall(options={"crop_to_patches": False}),
    "aya_vision": FrameCall(options={"crop_to_patches": False}),
    "ovis2": FrameCall(options={"crop_to_patches": False}),
    "cohere2_vision": FrameCall(options={"crop_to_patches": False}),
    "gemma3": FrameCall(options={"do_pan_and_scan": False}),
    "perception_lm": FrameCall(options={"vision_input_type": "vanilla"}),
    # A view of the whole and one crop at least: `frame_inputs` takes the view, as the family does with its own videos.
    "molmo2": FrameCall(options={"max_crops": 1}),
    # Several images of one prompt are not cut up; a single one is, so that a video of one frame has more tokens.
    "llava_onevision": FrameCall("videos"),
    # A flat list would be one prompt, and its features would come back without borders between the frames.
    "smolvlm": FrameCall("frames", {"do_image_splitting": False}),
    "idefics3": FrameCall("frames", {"do_image_splitting": False}),
    "lfm2_vl": FrameCall(options={"do_image_splitting": False}),
}


@dataclass(frozen=True)
class TypeRule:
    """What the masks of a family must be told of every token.

    Args:
        argument: its name in the forward of the base model.
        meaning: `"media"`, 1 for tokens of images, which see each other in both directions: so do those of a video.
            `"prefix"`, 0 for the prompt, which sees itself in both directions, and 1 for the answer.
        is_one_block: all images of a prompt see each other, so that none can be added behind a cache.
    """

    argument: Literal["token_type_ids", "mm_token_type_ids"]
    meaning: Literal["media", "prefix"]
    is_one_block: bool = False


TYPE_RULES: dict[str, TypeRule] = {
    "gemma3": TypeRule("token_type_ids", "media"),
    "molmo2": TypeRule("mm_token_type_ids", "media", is_one_block=True),
    "paligemma": TypeRule("token_type_ids", "prefix"),
}
# Features are added to the embedding of the placeholder, instead of taking its place.
ADDED_FEATURES = frozenset({"molmo2"})
# Model type -> what LinVT would do wrong.
TILED = "its image processor cuts every frame into tiles, which its model counts on, and nothing switches them off"
REFUSED: dict[str, str] = {
    "gemma3n": "every layer of its language model also reads embeddings of the ids, and a video has none",
    "llava_next": TILED,
    "llava_next_video": TILED,
    "video_llava": "it is a video-LLM, and the names of what its image processor makes are its own",
}
# Families that read `vision_feature_layer` of their configuration out of the hidden states of their tower.
LAYER_FAMILIES = frozenset({"aya_vision", "internvl", "llava", "llava_onevision", "mistral3", "vipllava"})
# Parts that make images, or look at videos in a way of the family's own: neither images nor LinVT's videos need them.
UNUSED_PARTS: dict[str, tuple[str, ...]] = {
    "janus": ("vqmodel", "generation_embeddings", "generation_aligner", "generation_head"),
}
# Families whose image processor gives square images of the tower's size, and nothing besides.
SQUARE_IMAGES = frozenset(
    {"aya_vision", "cohere2_vision", "gemma3", "internvl", "janus", "llava", "paligemma", "xgen_mm"}
)
EXAMPLES = "llava, llava_onevision, internvl, qwen2_vl, ..."


__all__ = [
    "ADDED_FEATURES",
    "EXAMPLES",
    "FRAME_CALLS",
    "LAYER_FAMILIES",
    "REFUSED",
    "SQUARE_IMAGES",
    "TYPE_RULES",
    "UNUSED_PARTS",
    "FrameCall",
    "TypeRule",
]
