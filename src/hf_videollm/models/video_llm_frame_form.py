"""Tells which options of a video processor decide what becomes of a frame when it is decoded."""

from collections.abc import Mapping
from typing import Any

# Options that do not change what `frame_fn` makes of a frame: they choose frames, change pixels later, or belong to
# the saved file. The decoder and what it does about damage are arguments of `load_video`.
NOT_OF_FRAMES = {
    *("do_sample_frames", "num_frames", "fps", "start", "end", "max_frames", "sampling", "find_shots", "frame_times"),
    *("video", "video_metadata", "return_metadata", "video_options", "videos_per_prompt", "num_tokens_per_frame"),
    *("allowed_hosts", "timeout", "return_tensors", "device", "pixel_dtype", "input_data_format", "data_format"),
    *("do_center_crop", "crop_size", "do_pad", "do_rescale", "rescale_factor", "do_normalize", "image_std"),
    *("video_backend", "on_decode_error", "processor_class", "auto_map", "video_processor_type"),
}


def frame_form(video_processor: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that may decide what a video processor makes of a decoded frame.

    A cache of decoded frames tells by this whether its frames are those that the processor would make. Options that
    this file does not know are part of it, so a new design needs no entry here.

    Args:
        video_processor: the processor.
        options: options of the call, which override its own.
    """
    named = {name: value for name, value in options.items() if value is not None}
    # A method that was replaced in this object alone, as evaluations replace `decode`, is no option.
    methods = {name for name in vars(video_processor) if callable(getattr(type(video_processor), name, None))}
    own = {name: value for name, value in video_processor.to_dict().items() if name not in methods}
    form = {**own, **named}
    kept = {name: value for name, value in form.items() if name not in NOT_OF_FRAMES}
    # The class decides how a frame is resized, and transformers does not save this attribute.
    return {**kept, "class": type(video_processor).__name__, "default_to_square": video_processor.default_to_square}


__all__ = ["frame_form"]
