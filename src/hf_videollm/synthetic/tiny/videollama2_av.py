"""The small VideoLLaMA2-AV of the package: its vocabulary, its sizes, and how it is built before training.

Its vision tower and its language model have the sizes of the small PLLaVA's, whose weights they can take.
"""

from __future__ import annotations

import torch
from transformers import CLIPImageProcessor

from ...models.configuration_videollama2_av import VideoLlama2AVConfig
from ...models.feature_extraction_beats import BeatsFeatureExtractor
from ...models.modeling_videollama2_av import VideoLlama2AVForCausalLM
from ...models.processing_pllava import CHAT_TEMPLATE
from ...models.processing_videollama2 import processor_options
from ...models.processing_videollama2_av import VideoLlama2AVProcessor
from ...models.video_processing_videollama2 import VideoLlama2VideoProcessor
from .parts import build_tokenizer, square_sizes, start_linear_layers, tiny_towers, vocabulary, words_of

__all__ = ["av_chat_template", "av_vocabulary", "build_tiny_videollama2_av"]

# The clips last two to three seconds. Longer sound would give more audio tokens than the language model has seen in
# training.
MAX_SECONDS = 10.0


def av_vocabulary() -> list[str]:
    """Every token of the small model: those of the small PLLaVA, with the same ids, then the new ones."""
    known = vocabulary()
    return [*known, "<audio>", *sorted(words_of("sound_order") - set(known))]


def av_chat_template() -> str:
    """The chat template of PLLaVA, whose layout the small PLLaVA was trained on, with blocks of audio added."""
    return CHAT_TEMPLATE.replace("['text', 'video', 'image']", "['text', 'video', 'image', 'audio']")


def build_tiny_videollama2_av(
    seed: int = 0,
    num_frames: int = 8,
    image_size: int = 64,
    patch_size: int = 8,
    vision_width: int = 96,
    vision_layers: int = 3,
    text_width: int = 128,
    text_layers: int = 4,
    audio_width: int = 64,
    audio_layers: int = 2,
) -> tuple[VideoLlama2AVForCausalLM, VideoLlama2AVProcessor]:
    """Make the untrained small model and its processor.

    The connector is that of VideoLLaMA2.1 with RegStages of one block instead of four.

    Args:
        seed: seed of the initial weights; the global random state does not change.
        num_frames: frames sampled from a video.
        image_size: side of the frames the model sees, in pixels.
        patch_size: side of a patch in pixels.
        vision_width: width of the vision tower; heads are 32 wide.
        vision_layers: layers of the vision tower, all of which are used.
        text_width: width of the language model; heads are 32 wide.
        text_layers: layers of the language model.
        audio_width: width of the audio encoder; heads are 32 wide.
        audio_layers: layers of the audio encoder.
    """
    words = av_vocabulary()
    placeholders = ["<image>", "<video>", "<audio>"]
    tokenizer = build_tokenizer(words, placeholders)
    towers, generation = tiny_towers(
        tokenizer, image_size, patch_size, vision_width, vision_layers, text_width, text_layers
    )
    config = VideoLlama2AVConfig(
        **towers,
        audio_config={
            "patch_embedding_dim": 3 * audio_width // 4,
            "hidden_size": audio_width,
            "num_hidden_layers": audio_layers,
            "num_attention_heads": audio_width // 32,
            "intermediate_size": 2 * audio_width,
            # The sound is two seconds long: 32 of its tokens are four patches in time.
            "conv_pos_kernel": 32,
            "conv_pos_groups": 16,
            "num_buckets": 160,
            "max_distance": 200,
            "layerdrop": 0.0,
            # The usual 0.02 suits widths of 768 and more. With it, the answers about sound would not improve for a
            # thousand steps.
            "initializer_range": audio_width**-0.5,
        },
        **{f"{token[1:-1]}_token_id": words.index(token) for token in placeholders},
        num_frames=num_frames,
        connector_type="stc_connector_v35",
        connector_depth=1,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VideoLlama2AVForCausalLM(config)
        start_linear_layers(model, "model.audio_projector", "model.connector.readout")
    model.generation_config = generation
    sizes = square_sizes(image_size)
    processor = VideoLlama2AVProcessor(
        image_processor=CLIPImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=VideoLlama2VideoProcessor(num_frames=num_frames, **sizes),
        feature_extractor=BeatsFeatureExtractor(max_seconds=MAX_SECONDS, pad_with_silence=False),
        chat_template=av_chat_template(),
        audio_sampling="contiguous",
        **processor_options(config),
    )
    return model, processor
