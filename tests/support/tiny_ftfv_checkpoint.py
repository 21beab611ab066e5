"""A tiny random FTFV on Qwen-VL's kind of tower, with everything a checkpoint folder needs."""

from typing import Any

from factory import QWEN_VL_VISION, TEXT_TOWERS, randomise
from tiny_checkpoint import CHARACTERS, SPECIAL, make_tokenizer
from transformers import CLIPImageProcessor

from hf_videollm import FtfvConfig, FtfvForConditionalGeneration, FtfvProcessor, FtfvVideoProcessor

IMAGE, VIDEO = SPECIAL.index("<image>"), SPECIAL.index("<video>")
SIDE, NUM_FRAMES, QUERIES, KEPT = 16, 4, 9, 4
SIZE = {"size": {"height": SIDE, "width": SIDE}}


def make_processor(**options: Any) -> FtfvProcessor:
    return FtfvProcessor(
        image_processor=CLIPImageProcessor(**SIZE, do_center_crop=False),
        tokenizer=make_tokenizer(),
        video_processor=FtfvVideoProcessor(**SIZE, num_frames=NUM_FRAMES),
        **{"num_queries": QUERIES, "num_tokens_per_frame": KEPT, **options},
    )


def make_model(**options: Any) -> FtfvForConditionalGeneration:
    """A model for the processor's tokenizer."""
    text = {**TEXT_TOWERS["llama"], "vocab_size": len(SPECIAL) + len(CHARACTERS)}
    config = FtfvConfig(
        **{
            "vision_config": QWEN_VL_VISION,
            "text_config": text,
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "num_frames": NUM_FRAMES,
            "num_queries": QUERIES,
            "num_tokens_per_frame": KEPT,
            "adapter_width": 24,
            "adapter_num_heads": 2,
            **options,
        }
    )
    model = FtfvForConditionalGeneration(config).eval()
    randomise(model, seed=3)
    model.generation_config.suppress_tokens = list(range(len(SPECIAL) + 2))
    model.generation_config.pad_token_id = 0
    return model
