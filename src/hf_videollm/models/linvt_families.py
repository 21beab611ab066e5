"""Tables of the differences between families of image-LLMs. The key of each table is the family's `model_type`.

`docs/measured/linvt_backbones.md` lists the families that were tried.
"""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class FrameCall:
    """How the image processor of a family has to be called so that it makes one image of each frame.

    Args:
        layout: `"flat"` for all frames in one list, `"videos"` for one list per video, `"frames"` for one list per
            frame.
        options: options of the image processor that switch off tiles.
    """

    layout: Literal["flat", "videos", "frames"] = "flat"
    options: dict[str, Any] = field(default_factory=dict)


# Families that are not in this table take a flat list.
FRAME_CALLS: dict[str, FrameCall] = {
    "internvl": FrameCall(options={"crop_to_patches": False}),
    "aya_vision": FrameCall(options={"crop_to_patches": False}),
    "ovis2": FrameCall(options={"crop_to_patches": False}),
    "cohere2_vision": FrameCall(options={"crop_to_patches": False}),
    "gemma3": FrameCall(options={"do_pan_and_scan": False}),
    "perception_lm": FrameCall(options={"vision_input_type": "vanilla"}),
    # Molmo2 makes a view of the whole image and at least one crop. `frame_inputs` keeps only the view of the whole
    # image, as Molmo2's own video processor does.
    "molmo2": FrameCall(options={"max_crops": 1}),
    # LLaVA-OneVision cuts an image into tiles if it is the only image of the prompt. A video of one frame is such an
    # image, so it has more tokens per frame than a longer video.
    "llava_onevision": FrameCall("videos"),
    # SmolVLM and Idefics3 take a flat list for the images of one prompt, and join the features of a prompt's images. So
    # each frame is passed like a prompt of its own.
    "smolvlm": FrameCall("frames", {"do_image_splitting": False}),
    "idefics3": FrameCall("frames", {"do_image_splitting": False}),
    "lfm2_vl": FrameCall(options={"do_image_splitting": False}),
}


@dataclass(frozen=True)
class TypeRule:
    """What the attention masks of a family need to know: one type for each token.

    Args:
        argument: name of the argument for the types in the forward of the base model.
        meaning: `"media"`: 1 for tokens of images and videos; the tokens of one image or video attend to each other in
            both directions. `"prefix"`: 0 for the prompt, which attends to itself in both directions, 1 for the answer.
        is_one_block: all images of a prompt attend to each other, so no image can be added after cached tokens.
    """

    argument: Literal["token_type_ids", "mm_token_type_ids"]
    meaning: Literal["media", "prefix"]
    is_one_block: bool = False


TYPE_RULES: dict[str, TypeRule] = {
    "gemma3": TypeRule("token_type_ids", "media"),
    "molmo2": TypeRule("mm_token_type_ids", "media", is_one_block=True),
    "paligemma": TypeRule("token_type_ids", "prefix"),
}
# Families that add features to the embedding of the placeholder, instead of replacing it.
ADDED_FEATURES = frozenset({"molmo2"})
# Families that LinVT refuses, with the reason.
TILED = "its image processor cuts every frame into tiles, no option prevents that, and its model needs the tiles"
REFUSED: dict[str, str] = {
    "gemma3n": "every layer of its language model also reads embeddings of the ids, and vectors of a video have no ids",
    "llava_next": TILED,
    "llava_next_video": TILED,
    "video_llava": "it is a video-LLM, and its image processor returns images under names that LinVT does not know",
}
# Families that take the hidden states of one layer of the tower, `vision_feature_layer` of their configuration.
LAYER_FAMILIES = frozenset({"aya_vision", "internvl", "llava", "llava_onevision", "mistral3", "vipllava"})
# Parts that generate images. Neither images in prompts nor the videos of LinVT run through them.
UNUSED_PARTS: dict[str, tuple[str, ...]] = {
    "janus": ("vqmodel", "generation_embeddings", "generation_aligner", "generation_head"),
}
# Families whose image processor makes square images of the tower's size, and no other inputs.
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
