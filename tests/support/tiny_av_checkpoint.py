"""A tiny random VideoLLaMA2-AV with everything a checkpoint folder needs, next to the tiny PLLaVA."""

import torch
from tiny_checkpoint import NUM_FRAMES, SIDE, SPECIAL, make_config, make_tokenizer
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast

from hf_videollm import (
    BeatsFeatureExtractor,
    VideoLlama2AVConfig,
    VideoLlama2AVForCausalLM,
    VideoLlama2AVProcessor,
    VideoLlama2VideoProcessor,
)
from hf_videollm.models.processing_videollama2_av import av_processor_options

BEATS = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "patch_embedding_dim": 32,
    "conv_pos_kernel": 16,
    "conv_pos_groups": 4,
}
VIDEO_TOKENS = 8  # 4 frames of 4 x 4 patches, halved along every axis


def make_av_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the tiny PLLaVA, and `<audio>`."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<audio>"], special_tokens=True)
    tokenizer.padding_side = "left"  # as converted checkpoints have it; the feature extractor pads on the right
    return tokenizer


def make_av_config() -> VideoLlama2AVConfig:
    """Configuration that fits the processor."""
    tokenizer, base = make_av_tokenizer(), make_config()
    return VideoLlama2AVConfig(
        vision_config=base.vision_config.to_dict(),
        text_config={**base.text_config.to_dict(), "vocab_size": len(tokenizer), "max_position_embeddings": 4096},
        audio_config=BEATS,
        image_token_id=base.image_token_id,
        video_token_id=base.video_token_id,
        audio_token_id=tokenizer.convert_tokens_to_ids("<audio>"),
        num_frames=NUM_FRAMES,
    )


def make_av_processor(pad_with_silence: bool = False, **options: object) -> VideoLlama2AVProcessor:
    """Sounds keep their own length, unlike in the original, so that tests have few tokens."""
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    return VideoLlama2AVProcessor(
        image_processor=CLIPImageProcessor(**size),
        tokenizer=make_av_tokenizer(),
        video_processor=VideoLlama2VideoProcessor(**size, num_frames=NUM_FRAMES),
        feature_extractor=BeatsFeatureExtractor(pad_with_silence=pad_with_silence),
        **{**av_processor_options(make_av_config()), "audio_sampling": "contiguous", **options},
    )


def make_av_model(seed: int = 0) -> VideoLlama2AVForCausalLM:
    """A random model whose answers depend on what it sees and hears."""
    torch.manual_seed(seed)
    model = VideoLlama2AVForCausalLM(make_av_config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
        model.model.audio_projector[-1].weight.mul_(4.0)
    model.generation_config.suppress_tokens = [*range(len(SPECIAL) + 2), model.config.audio_token_id]
    return model
