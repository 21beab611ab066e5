"""Counts what one video costs: operations of every part, and the key-value cache. No weights are needed.

The real modules run on the meta device, so the count is exactly what they would compute. There are two counts: weight
layers alone, which papers usually publish, and all products including those of attention.
"""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForImageTextToText

from ..inference import load_design_config
from ..models.configuration_video_llm import VideoLlmConfig
from ..models.errors import one_line
from ..models.iva_frames import FrameBank
from ..models.transformers_compat import cache_of
from .counter import Flops, measure
from .info import FRAMES_OF_30_SECONDS, kv_cache_bytes
from .memory import filter_bank_frames, predict_memory, sound_seconds
from .presets import find_preset
from .report import FlopsReport, TokensRow

# The length of the text in FTFV's Table 5. The paper does not state it; it follows from the numbers in the table.
DEFAULT_TEXT_TOKENS = 48


def describe_flops(
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    design: str | None = None,
    num_frames: int | None = None,
    text_tokens: int = DEFAULT_TEXT_TOKENS,
    tokens_per_frame: int | None = None,
    lora_rank: int | None = None,
    memory: bool = False,
) -> FlopsReport:
    """Count for a checkpoint, from its configuration only, or for a design at the size of its paper.

    Args:
        checkpoint: folder or Hub id.
        design: name of a preset (`presets.all_presets`), instead of a checkpoint.
        num_frames: frames of the video; by default the number in the configuration.
        text_tokens: tokens of the prompt beside the media.
        tokens_per_frame: kept tokens per frame (FTFV). By default the number in the configuration is used, and a table
            for other numbers is added.
        lora_rank: rank of an unmerged LoRA; by default that of the preset, or no LoRA.
        memory: also predict the memory, which takes about as long as counting.

    Raises:
        ValueError: both or none of checkpoint and design are given, or a number is out of range.
        CheckpointError: the folder is not a checkpoint of one of the designs.
    """
    if (checkpoint is None) == (design is None):
        raise ValueError("Give either a checkpoint or a design (--design ftfv), and not both.")
    published: Mapping[int, float] = {}
    if design is None:
        assert checkpoint is not None
        source = os.fspath(checkpoint)
        config = load_design_config(source)
    else:
        preset = find_preset(design)
        source, config = preset.description, preset.config()
        lora_rank = preset.lora_rank if lora_rank is None else lora_rank
        if num_frames in (None, config.num_frames) and text_tokens == DEFAULT_TEXT_TOKENS:
            published = preset.published if lora_rank == preset.lora_rank else {}
    sweep: Sequence[int] = ()
    if tokens_per_frame is None and (queries := config.num_queries) is not None:
        sweep = sorted(published or {queries, queries // 2 or 1, queries // 4 or 1, queries // 8 or 1, 1})
    report = count_flops(
        config,
        source=source,
        num_frames=num_frames,
        text_tokens=text_tokens,
        tokens_per_frame=tokens_per_frame,
        lora_rank=lora_rank or 0,
        sweep=sweep,
        published=published,
    )
    if not memory:
        return report
    if tokens_per_frame is not None:
        config = copy.deepcopy(config)
        config.num_tokens_per_frame = tokens_per_frame
    seconds = sound_seconds(config, num_frames=num_frames, text_tokens=text_tokens)
    sound = filter_bank_frames(seconds) if seconds else None
    try:
        needed = predict_memory(config, num_frames=num_frames, text_tokens=text_tokens, sound_frames=sound)
        return replace(report, memory=needed)
    except ValueError as error:
        return replace(report, notes=[*report.notes, str(error)])


def count_flops(
    config: VideoLlmConfig,
    *,
    source: str | None = None,
    num_frames: int | None = None,
    text_tokens: int = DEFAULT_TEXT_TOKENS,
    tokens_per_frame: int | None = None,
    lora_rank: int = 0,
    sweep: Sequence[int] = (),
    published: Mapping[int, float] | None = None,
) -> FlopsReport:
    """Count the operations of a model for one video and a prompt, and for 30 seconds of sound if the design uses sound.

    Args:
        config: configuration of any design.
        source: name of the model in the report; by default its `model_type`.
        num_frames: frames of the video; by default the number in the configuration.
        text_tokens: tokens of the prompt besides the media.
        tokens_per_frame: kept tokens per frame, for designs that drop some; by default the number in the configuration.
        lora_rank: rank of an unmerged LoRA on all linear layers of the language model.
        sweep: other numbers of kept tokens per frame for which the forward pass is counted, too.
        published: kept tokens per frame -> TFLOPs of the paper, which are shown next to the sweep.

    Raises:
        ValueError: a number is out of range, or the model cannot be counted without weights, such as LinVT.
    """
    if not config.has_fixed_cost:
        raise ValueError(
            f"{source or 'linvt'} is a LinVT: the operations of its image-LLM are known only when it runs, so they "
            "cannot be counted. hf-videollm info counts its parameters."
        )
    num_frames = config.num_frames if num_frames is None else num_frames
    for name, value, least in (
        ("num_frames", num_frames, 1),
        ("text_tokens", text_tokens, 1),
        ("lora_rank", lora_rank, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}.")
    configured = config.num_tokens_per_frame
    if configured is None and tokens_per_frame is not None:
        raise ValueError(f"tokens_per_frame has no effect for {config.model_type}, which keeps all its tokens.")
    kept = configured if tokens_per_frame is None else tokens_per_frame
    # IVA's query tokens.
    text_tokens += config.num_prompt_tokens()
    meter = _Meter(config, num_frames, text_tokens, lora_rank)
    parts, tokens = meter.forward_pass(kept)
    rows = []
    for other in sweep:
        row_parts, row_tokens = (parts, tokens) if other == kept else meter.forward_pass(other)
        cache = meter.cache_bytes(row_tokens + text_tokens)
        rows.append(TokensRow(other, row_tokens, _sum(row_parts), cache, (published or {}).get(other)))
    return FlopsReport(
        source=config.model_type if source is None else source,
        design=config.model_type,
        num_frames=num_frames,
        text_tokens=text_tokens,
        media_tokens=tokens,
        tokens_per_frame=kept,
        lora_rank=lora_rank,
        parts=parts,
        total=_sum(parts),
        decoded_token=meter.decoded_token(tokens + text_tokens),
        kv_cache_bytes=meter.cache_bytes(tokens + text_tokens),
        kv_cache_bytes_per_token=meter.cache_bytes(1),
        by_tokens_per_frame=rows,
        notes=meter.notes,
    )


def lora_flops_per_token(language_model: nn.Module, rank: int) -> int:
    """Operations per token of unmerged LoRA factors on every linear layer (a LLaMA has seven in each block).

    Raises:
        ValueError: the language model has no linear layers.
    """
    adapted = [module for module in language_model.modules() if isinstance(module, nn.Linear)]
    if rank and not adapted:
        raise ValueError(f"{type(language_model).__name__} has no linear layers that a LoRA could adapt (lora_rank).")
    return sum(2 * rank * (module.in_features + module.out_features) for module in adapted)


def _sum(parts: Mapping[str, Flops]) -> Flops:
    return sum(parts.values(), Flops())


class _Meter:
    """Counts the operations of the parts of a model on the meta device, for one video."""

    def __init__(self, config: VideoLlmConfig, num_frames: int, text_tokens: int, lora_rank: int) -> None:
        self.config, self.num_frames, self.text_tokens = config, num_frames, text_tokens
        with torch.device("meta"):
            # Eager attention computes its products one by one, so they can be counted. Every kernel has the same
            # products.
            self.model: Any = AutoModelForImageTextToText.from_config(
                copy.deepcopy(config), attn_implementation="eager", dtype=torch.bfloat16
            ).eval()
        # Frames that run together or one after the other take the same operations; together they are counted sooner.
        self.model.config.vision_chunk_size = num_frames
        self.lora_rank = lora_rank
        self.lora = lora_flops_per_token(self.model.model.language_model, lora_rank)
        self.notes = [
            "Weight layers: 2 x multiply-adds of linear layers and convolutions. All products: attention as well, "
            "without the half that a causal kernel saves. The head is counted at every position."
        ]
        if config.num_tokens_per_frame is not None:
            self.notes.append(
                "Weight layers of the connector are counted as in FTFV's Table 5: the whole adapter for every frame. "
                "All products are counted as computed: queries are projected once, and only kept ones go on."
            )
        if queries := config.num_prompt_tokens():
            # No features may move to the CPU, because they have no values on the meta device.
            self.model.config.max_frames_on_device = num_frames
            self.notes.append(f"The text includes the {queries} query tokens.")
        self.tower, outputs = self._measure(lambda: self.model.model.encode_frames(self._frames()))
        self.features = outputs.last_hidden_state
        self.whole_adapter: int | None = None
        # The frames that IVA's adapter looks at.
        self.frames: list[Any] | None = None
        self.sound, self.sound_tokens = self._hear() if "audio" in config.modalities else ({}, 0)

    def forward_pass(self, kept: int | None) -> tuple[dict[str, Flops], int]:
        """Count the parts of one forward pass over media and prompt.

        Args:
            kept: tokens per frame that are kept, for designs that drop some.

        Returns:
            The operations of each part, and the number of media tokens.
        """
        connector, tokens = self._connect(kept)
        tokens += self.sound_tokens
        length = tokens + self.text_tokens
        language, outputs = self._measure(lambda: self._read(length))
        head, _ = self._measure(lambda: self.model.lm_head(outputs.last_hidden_state))
        parts = {"vision tower": self.tower, "connector": connector, **self.sound, "language model": language}
        if self.frames is not None:
            parts["adapter"] = self._adapt(self.frames)
        if self.lora:
            parts[f"LoRA of rank {self.lora_rank}, unmerged"] = Flops(self.lora * length, self.lora * length)
        return {**parts, "head": head}, tokens

    def decoded_token(self, length: int) -> Flops:
        """Operations of one new token after `length` others."""
        # Only the second run counts. The first is measured because a run is faster where its operations are known.
        _, prompt = self._measure(lambda: self._read(length))
        language, outputs = self._measure(lambda: self._read(1, cache_of(prompt)))
        head, _ = self._measure(lambda: self.model.lm_head(outputs.last_hidden_state))
        return language + head + Flops(self.lora, self.lora)

    def cache_bytes(self, tokens: int) -> int:
        """Size of the bfloat16 key-value cache."""
        return kv_cache_bytes(self.config.get_text_config(), tokens)

    def _measure(self, run: Callable[[], Any]) -> tuple[Flops, Any]:
        try:
            return measure(self.model, run)
        except NotImplementedError as error:
            # On the meta device, operations that depend on values, such as the choice of experts, are not possible.
            raise ValueError(
                f"A {self.config.model_type} of {self.config.vision_config.model_type} and "
                f"{self.config.text_config.model_type} cannot be counted without weights: "
                f"{one_line(error, 120)}"
            ) from error

    def _read(self, length: int, cache: Any = None) -> Any:
        """Run the language model on `length` embeddings."""
        width = self.config.get_text_config().hidden_size
        embeddings = torch.empty(1, length, width, device="meta", dtype=torch.bfloat16)
        with torch.no_grad():
            language, name = self.model.model.language_model, self.model.model.cache_argument
            return language(inputs_embeds=embeddings, use_cache=True, **{name: cache})

    def _frames(self) -> torch.Tensor:
        size = self.config.vision_config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return torch.empty(self.num_frames, 3, height, width, device="meta", dtype=torch.bfloat16)

    def _connect(self, kept: int | None) -> tuple[Flops, int]:
        """Operations of the connector, and the number of tokens of the video."""
        connector = self.model.model.connector
        if self.model.model.encodes_features:
            # `encode_features` expects the class token, if there is one. The tower's features above do not have it.
            has_class_token = self.config.vision_feature_select_strategy == "default"
            tokens = functional.pad(self.features, (0, 0, int(has_class_token), 0))
            flops, output = self._measure(lambda: self.model.model.encode_features([tokens], [self.num_frames]))
            self.frames = output.frames
            return flops, len(output.pooler_output[0])
        if kept is None:
            flops, clips = self._measure(lambda: connector(self.features, [self.num_frames]))
            return flops, len(clips[0])
        flops, clips = self._measure(lambda: connector(self.features, [self.num_frames], num_tokens_per_frame=kept))
        # For every K, the count of weight layers is that of the whole adapter for each frame (see the notes).
        if self.whole_adapter is None:
            every = self.config.num_queries
            frame, _ = self._measure(lambda: connector(self.features[:1], [1], num_tokens_per_frame=every))
            self.whole_adapter = frame.weights * self.num_frames
        return Flops(self.whole_adapter, flops.total), len(clips[0])

    def _adapt(self, frames: list[Any]) -> Flops:
        """Operations of all calls of IVA's adapter. It runs only while the prompt is processed."""
        model = self.model.model
        width, num_queries = self.config.get_text_config().hidden_size, self.config.num_query_tokens
        states = torch.empty(1, num_queries, width, device="meta", dtype=torch.bfloat16)
        visible = torch.ones(1, num_queries, self.num_frames, device="meta", dtype=torch.bool)
        row = torch.zeros(1, device="meta", dtype=torch.long)
        call, _ = self._measure(lambda: model.adapter(states, visible, FrameBank(frames, row, row)))
        return _sum({str(layer): call for layer in self.config.insertion_layers})

    def _hear(self) -> tuple[dict[str, Flops], int]:
        """Operations of the audio parts for 30 seconds of sound, and the number of its tokens."""
        sound = torch.empty(1, FRAMES_OF_30_SECONDS, self.config.audio_config.num_mel_bins, device="meta")
        whole, outputs = self._measure(lambda: self.model.get_audio_features(sound, return_dict=True))
        projector, _ = self._measure(lambda: self.model.model.audio_projector(outputs.last_hidden_state))
        self.notes.append("The sound lasts 30 seconds.")
        return {"audio tower": whole - projector, "audio projector": projector}, sum(map(len, outputs.pooler_output))


__all__ = ["count_flops", "describe_flops", "lora_flops_per_token"]
