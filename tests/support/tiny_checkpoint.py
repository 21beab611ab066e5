"""A tiny random PLLaVA with everything a checkpoint folder needs: for tests of pipeline, command line, remote code."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import CLIPImageProcessor, PreTrainedTokenizerFast

from hf_videollm import PllavaConfig, PllavaForConditionalGeneration, PllavaProcessor, PllavaVideoProcessor

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<video>"]
# Single characters, so that any text can be written and read back.
CHARACTERS = sorted(set(" \n" + "".join(chr(code) for code in range(33, 127))))
NUM_FRAMES = 4
POOLING = [4, 2, 2]
SIDE = 32


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, and the placeholders."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=["<image>", "<video>"],
    )


def make_processor() -> PllavaProcessor:
    """A processor for frames of 32 pixels and 4 frames a video."""
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    return PllavaProcessor(
        image_processor=CLIPImageProcessor(**size),
        tokenizer=make_tokenizer(),
        video_processor=PllavaVideoProcessor(**size, num_frames=NUM_FRAMES),
        pooling_shape=POOLING,
    )


def make_config() -> PllavaConfig:
    """Configuration that fits the processor."""
    tower = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "image_size": SIDE,
        "patch_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    text = {
        "model_type": "llama",
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(SPECIAL) + len(CHARACTERS),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return PllavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_id=SPECIAL.index("<image>"),
        video_token_id=SPECIAL.index("<video>"),
        num_frames=NUM_FRAMES,
        pooling_shape=POOLING,
    )


def make_model(seed: int = 0) -> PllavaForConditionalGeneration:
    """A random model whose answers depend on the video: the projector is scaled up."""
    torch.manual_seed(seed)
    model = PllavaForConditionalGeneration(make_config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
        model.model.connector.linear_2.weight.mul_(4.0)
    # Only characters that can be seen; special tokens would be dropped from the text.
    model.generation_config.suppress_tokens = list(range(len(SPECIAL) + 2))
    return model
