"""Tiny random models and batches of every design, for the shared invariants.

A batch is described by strings: `[["v3", "i"], [], ["v2", "v4"]]` is three prompts, the first with a video of three
frames and an image, the second with text only. `DesignCase.make_rows` turns that into prompts, `collate` into inputs.
A new design adds its cases with `DesignCase(...)`; nothing else here knows about designs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from hf_videollm.models.modeling_ftfv import FtfvForConditionalGeneration
from hf_videollm.models.modeling_iva import IvaForConditionalGeneration
from hf_videollm.models.modeling_pllava import PllavaForConditionalGeneration
from hf_videollm.models.modeling_video_llm import VideoLlmForConditionalGeneration
from hf_videollm.models.modeling_videollama2 import VideoLlama2ForCausalLM
from hf_videollm.models.modeling_videollama2_av import VideoLlama2AVForCausalLM

VOCAB_SIZE, PAD, IMAGE, VIDEO, AUDIO, QUERY = 120, 0, 100, 101, 102, 103
FRAME_SIZE = 16
MEL_BINS = 128
TOKEN_TYPES = {IMAGE: 1, VIDEO: 2, AUDIO: 3}
Specs = Sequence[Sequence[str]]

VISION_TOWERS: dict[str, dict[str, Any]] = {
    name: {
        "model_type": name,
        "hidden_size": 16,
        "intermediate_size": 32,
        "image_size": FRAME_SIZE,
        "patch_size": 4,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    for name in ("clip_vision_model", "siglip_vision_model")
}
_LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 256,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": None,
}
TEXT_TOWERS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_LLAMA_LIKE},
    "qwen2": {"model_type": "qwen2", **_LLAMA_LIKE},
    "mistral": {"model_type": "mistral", **_LLAMA_LIKE, "sliding_window": None},
    "mixtral": {"model_type": "mixtral", **_LLAMA_LIKE, "num_local_experts": 3, "num_experts_per_tok": 2},
    # A sliding window. No soft cap on attention: the fused kernel of older releases silently leaves it out.
    "gemma2": {
        "model_type": "gemma2",
        **_LLAMA_LIKE,
        "head_dim": 8,
        "sliding_window": 12,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": None,
    },
    # Absolute positions: a wrong position id shows, where rotary embeddings only see differences.
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 512,
        "vocab_size": VOCAB_SIZE,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": 1,
        "eos_token_id": None,
    },
}


@dataclass(frozen=True)
class Row:
    """One prompt with its media, before batching."""

    ids: torch.Tensor
    videos: tuple[torch.Tensor, ...] = ()
    images: tuple[torch.Tensor, ...] = ()
    sounds: tuple[torch.Tensor, ...] = ()

    @property
    def has_media(self) -> bool:
        return bool(self.videos or self.images or self.sounds)

    @staticmethod
    def join_media(rows: Sequence["Row"], garbage: float) -> dict[str, torch.Tensor]:
        """The media of rows as model inputs; see `collate`."""
        batch = {}
        videos = [video for row in rows for video in row.videos]
        if videos:
            batch["pixel_values_videos"] = pad_sequence(videos, True, garbage)
            batch["num_video_frames"] = torch.tensor([len(video) for video in videos])
        if images := [image for row in rows for image in row.images]:
            batch["pixel_values"] = torch.cat(images)
        if sounds := [sound for row in rows for sound in row.sounds]:
            batch["input_features"] = pad_sequence(sounds, True, garbage)
            ones = [torch.ones(len(sound), dtype=torch.long) for sound in sounds]
            batch["input_features_mask"] = pad_sequence(ones, True, 0)
        return batch


@dataclass(frozen=True)
class DesignCase:
    """A tiny model of one design, and how to feed it.

    Attributes:
        name: shown as the test's id.
        model_class: the class with a head.
        config: keyword arguments of its configuration.
        min_frames: frames of the shortest video the design takes; shorter ones are made as long.
        sensitivity: how far other videos must move the logits; far above every tolerance.
        absolute_positions: the language model sees where a token stands, not only distances.
        hears: videos of an even number of frames have sound, and every image has a sound of its own.
    """

    name: str
    model_class: type[VideoLlmForConditionalGeneration]
    config: dict[str, Any]
    min_frames: int = 1
    sensitivity: float = 0.3
    absolute_positions: bool = False
    hears: bool = False

    def make_config(self, **overrides: Any) -> Any:
        return self.model_class.config_class(**{**self.config, **overrides})

    def make_model(self, seed: int = 0, **overrides: Any) -> VideoLlmForConditionalGeneration:
        """A model in evaluation mode whose answers depend on its videos."""
        model = self.model_class(self.make_config(**overrides))
        randomise(model, seed)
        # Ids that stand for media, or for padding, are nothing a prompt would ask a model to write.
        model.generation_config.suppress_tokens = [PAD, IMAGE, VIDEO, AUDIO, QUERY]
        model.generation_config.pad_token_id = PAD
        return model.eval()

    def make_rows(self, specs: Specs, seed: int = 0) -> list[Row]:
        """Prompts of unequal length: text, the placeholders of each medium with text between, text."""
        generator = torch.Generator().manual_seed(seed)
        return [self._make_row(media, index, generator) for index, media in enumerate(specs)]

    def _make_row(self, media: Sequence[str], index: int, generator: torch.Generator) -> Row:
        config = self.make_config()
        text = [random_text(2 + index % 3, generator)]
        clips: dict[str, list[torch.Tensor]] = {"i": [], "v": []}
        sounds: list[torch.Tensor] = []
        for medium in media:
            is_image = medium[0] == "i"
            num_frames = 1 if is_image else max(int(medium[1:]), self.min_frames)
            clips[medium[0]].append(random_frames(num_frames, generator))
            num_tokens = config.num_image_tokens() if is_image else config.num_video_tokens(num_frames)
            text.append(torch.full((num_tokens,), IMAGE if is_image else VIDEO))
            if self.hears and (is_image or num_frames % 2 == 0):
                # Of unequal lengths, the last patch incomplete.
                sounds.append(random_sound(37 + 16 * num_frames, generator))
                text.append(torch.full((config.num_audio_tokens(len(sounds[-1])),), AUDIO))
            text.append(random_text(1 + index % 2, generator))
        text.append(random_text(2, generator))
        if media and getattr(config, "num_insertions", 0):
            # IVA's query tokens, and behind them the beginning of an answer, which they are there for.
            text += [torch.full((config.num_query_tokens,), QUERY), random_text(2, generator)]
        return Row(torch.cat(text), tuple(clips["v"]), tuple(clips["i"]), tuple(sounds))

    def make_batch(self, specs: Specs, seed: int = 0, padding_side: str = "right") -> dict[str, torch.Tensor]:
        """Model inputs of the prompts that `specs` describes."""
        return collate(self.make_rows(specs, seed), padding_side)


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Give every weight a size at which it matters.

    With the usual initialisation (0.02) a tiny model ignores its video: all its logits are nearly zero.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                is_scale = "norm" in name.lower() or ".ln_" in name or ".bn." in name
                parameter.copy_((1.0 if is_scale and name.endswith("weight") else 0.0) + 0.1 * noise)
            elif ".adapter." in name:
                # IVA's products have no scale and its pairs no norm: larger weights make the softmax a switch, and
                # rounding a difference.
                size = 0.3 if ".query." in name or ".key." in name else 0.7
                parameter.copy_(size * noise / math.sqrt(parameter[0].numel()))
            elif "embed" in name or ".wte." in name or ".wpe." in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(1.5 * noise / math.sqrt(parameter[0].numel()))


def random_frames(num_frames: int, generator: torch.Generator) -> torch.Tensor:
    """Frames `(T, 3, H, W)` of one clip, each with a colour of its own, so that pooling cannot level them out."""
    colour = torch.randn((num_frames, 3, 1, 1), generator=generator)
    return colour + torch.randn((num_frames, 3, FRAME_SIZE, FRAME_SIZE), generator=generator)


def random_sound(num_frames: int, generator: torch.Generator) -> torch.Tensor:
    """Filter-bank frames `(T, 128)` of one sound, with a spectrum of its own, at the level BEATs expects."""
    spectrum = torch.randn((1, MEL_BINS), generator=generator)
    return 15 + 6 * (spectrum + torch.randn((num_frames, MEL_BINS), generator=generator))


def random_text(length: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(3, IMAGE, (length,), generator=generator)


def collate(rows: Sequence[Row], padding_side: str = "right", garbage: float = float("nan")) -> dict[str, torch.Tensor]:
    """Pad and stack prompts.

    Args:
        garbage: value of the padded frames, of videos and of sounds. A NaN that is used anywhere spoils every logit
            it reaches.
    """
    lengths = torch.tensor([len(row.ids) for row in rows])
    input_ids = pad_sequence([row.ids for row in rows], True, PAD, padding_side)
    ones = [torch.ones(int(length), dtype=torch.long) for length in lengths]
    batch = {"input_ids": input_ids, "attention_mask": pad_sequence(ones, True, 0, padding_side)}
    batch.update(rows[0].join_media(rows, garbage))
    batch["mm_token_type_ids"] = sum((input_ids == token).long() * kind for token, kind in TOKEN_TYPES.items())
    return batch


def with_labels(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch with its own text as labels: no loss on placeholders and padding."""
    ignored = (batch["attention_mask"] == 0) | (batch["mm_token_type_ids"] > 0) | (batch["input_ids"] == QUERY)
    return {**batch, "labels": batch["input_ids"].masked_fill(ignored, -100)}


def with_other_media(rows: Sequence[Row], seed: int = 1234) -> list[Row]:
    """The same prompts with other frames: what no model that looks at its videos can mistake for the original."""
    generator = torch.Generator().manual_seed(seed)

    def redraw(clips: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(random_frames(len(clip), generator) for clip in clips)

    others = [replace(row, videos=redraw(row.videos), images=redraw(row.images)) for row in rows]
    return [replace(row, sounds=tuple(random_sound(len(sound), generator) for sound in row.sounds)) for row in others]


def repeat_rows(rows: Sequence[Row], times: int) -> list[Row]:
    """Every prompt `times` times, with its media: what beams and several return sequences amount to."""
    return [row for row in rows for _ in range(times)]


def _towers(text: str, vision: str) -> dict[str, Any]:
    """What the configurations of all designs have in common."""
    return {
        "text_config": TEXT_TOWERS[text],
        "vision_config": VISION_TOWERS[vision],
        "vision_feature_select_strategy": "default" if vision == "clip_vision_model" else "full",
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "num_frames": 4,
        "vision_chunk_size": 4,
        # Whatever the language model says.
        "tie_word_embeddings": False,
    }


def pllava_case(text: str, vision: str = "clip_vision_model", **overrides: Any) -> DesignCase:
    """PLLaVA on the named towers."""
    config = {**_towers(text, vision), "pooling_shape": [2, 2, 2], **overrides}
    return DesignCase(
        name=f"pllava-{text}-{vision.split('_')[0]}" + ("-tied" if overrides.get("tie_word_embeddings") else ""),
        model_class=PllavaForConditionalGeneration,
        config=config,
        absolute_positions=text == "gpt2",
    )


PLLAVA_CASES = [
    pllava_case("llama"),
    pllava_case("qwen2", "siglip_vision_model"),
    pllava_case("gpt2"),
    pllava_case("gemma2", tie_word_embeddings=True),
]


def videollama2_case(connector: str, text: str, vision: str = "clip_vision_model", **overrides: Any) -> DesignCase:
    """VideoLLaMA2 with the named connector on the named towers. Its images are videos of `num_frames` frames."""
    config = {**_towers(text, vision), "connector_type": connector, **overrides}
    return DesignCase(
        name=f"{connector}-{text}-{vision.split('_')[0]}",
        model_class=VideoLlama2ForCausalLM,
        config=config,
        # Without padding, the kernel of the 2.1 connectors needs two frames.
        min_frames=2 if connector in ("stc_connector_v35", "stp_connector") else 1,
        absolute_positions=text == "gpt2",
    )


VIDEOLLAMA2_CASES = [
    videollama2_case("stc_connector", "mistral", connector_depth=1),
    videollama2_case("stc_connector_v35", "qwen2", "siglip_vision_model"),
    videollama2_case("stp_connector", "mixtral", connector_depth=2, num_frames=3),
    videollama2_case("spatial_conv", "gpt2"),
    videollama2_case("mlp2x_gelu", "gpt2"),
]


# No layer is dropped at random: tests compare runs.
BEATS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_embedding_dim": 16,
    "conv_pos_kernel": 8,
    "conv_pos_groups": 4,
    "layerdrop": 0.0,
}


def videollama2_av_case(text: str, vision: str = "clip_vision_model") -> DesignCase:
    """VideoLLaMA2-AV on the named towers: videos with and without sound, and sounds of their own."""
    case = videollama2_case("stc_connector_v35", text, vision, connector_depth=1)
    config = {**case.config, "audio_config": BEATS, "audio_token_id": AUDIO}
    name = case.name.replace("stc_connector_v35", "av")
    return replace(case, name=name, model_class=VideoLlama2AVForCausalLM, config=config, hears=True)


VIDEOLLAMA2_AV_CASES = [
    videollama2_av_case("qwen2"),
    videollama2_av_case("gpt2", "siglip_vision_model"),
]


# The positions of a grid of 2 x 2, resized to the 4 x 4 patches of a frame.
QWEN_VL_VISION: dict[str, Any] = {
    **VISION_TOWERS["clip_vision_model"],
    "model_type": "qwen_vl_vision",
    "position_grid_size": 2,
}


def ftfv_case(text: str, vision: str = "qwen_vl_vision", **overrides: Any) -> DesignCase:
    """FTFV on the named towers: 4 of 9 tokens of a frame, all of an image."""
    config = {
        **_towers(text, "clip_vision_model"),
        "vision_config": QWEN_VL_VISION if vision == "qwen_vl_vision" else VISION_TOWERS[vision],
        "vision_feature_select_strategy": None,
        "num_queries": 9,
        "num_tokens_per_frame": 4,
        "adapter_width": 24,
        "adapter_num_heads": 2,
        **overrides,
    }
    return DesignCase(
        name=f"ftfv-{text}-{vision.removesuffix('_vision_model').removesuffix('_vision')}",
        model_class=FtfvForConditionalGeneration,
        config=config,
        absolute_positions=text == "gpt2",
    )


FTFV_CASES = [
    ftfv_case("llama"),
    ftfv_case("qwen2", "siglip_vision_model", sampler_order="query"),
    ftfv_case("gpt2", "clip_vision_model", attention_score_reduction="max"),
]


def iva_case(text: str, vision: str = "clip_vision_model", **overrides: Any) -> DesignCase:
    """IVA on the named towers, the adapter before both layers of the language model."""
    config = {
        **_towers(text, vision),
        "query_token_id": QUERY,
        "num_query_tokens": 3,
        "num_insertions": 2,
        "num_adapter_layers": 2,
        "adapter_hidden_size": 24,
        "causal_num_layers": 1,
        "causal_num_heads": 2,
        "frames_per_chunk": 2,
        **overrides,
    }
    return DesignCase(
        name=f"iva-{text}-{vision.split('_')[0]}" + ("-every" if overrides.get("query_placement") else ""),
        model_class=IvaForConditionalGeneration,
        config=config,
        absolute_positions=text == "gpt2",
    )


IVA_CASES = [
    iva_case("llama"),
    iva_case("qwen2", "siglip_vision_model", frame_token_order="concatenated"),
    iva_case("gemma2", adapter_residual=True),
]
