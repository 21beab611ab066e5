"""Vision towers of any family of transformers: they compute features of frames, and unused layers are frozen."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .video_llm_chunks import chosen_chunk_size, join_in_chunks, join_parts, tower_chunk_size
from .video_llm_tower_layers import make_stoppable, partial_run

# Names that families of transformers give to the norm after the last layer, and to the part that turns a frame into one
# vector.
CLOSING_NORMS = ("post_layernorm", "layernorm", "norm", "rms_norm")
POOLING_HEADS = ("head", "pooler")
# Name of the vector that replaces masked patches in pretraining.
MASK_TOKENS = ("embeddings.mask_token",)
# Towers that apply the closing norm to their pooled output only, and not to `last_hidden_state`.
NORM_OF_POOLED_OUTPUT = ("clip_vision_model", "chinese_clip_vision_model", "mlcd", "mlcd_vision_model")


class TowerRecord:
    """Collects hidden states and attention weights of a tower while frames run through it in chunks.

    Args:
        keeps_hidden_states: keep the output of every layer. This takes the memory of all layers for all frames.
            Attention weights are kept wherever the tower returns them.
    """

    def __init__(self, keeps_hidden_states: bool) -> None:
        self.keeps_hidden_states = keeps_hidden_states
        self.hidden_states: list[tuple[torch.Tensor, ...]] = []
        self.attentions: list[tuple[torch.Tensor, ...]] = []

    def add(self, outputs: Any) -> None:
        """Add the outputs of the tower for one chunk."""
        if self.keeps_hidden_states:
            self.hidden_states.append(outputs.hidden_states)
        if outputs.attentions:
            self.attentions.append(outputs.attentions)

    def write_to(self, output: BaseModelOutputWithPooling) -> None:
        """Write what was kept into `output.hidden_states` and `output.attentions`, all chunks joined."""
        if self.hidden_states:
            output.hidden_states = concatenate_layers(self.hidden_states)
        if self.attentions:
            output.attentions = concatenate_layers(self.attentions)


class VisionTowerMixin:
    """For a base model with a `vision_tower`: computes the features of the layers that the configuration selects."""

    config: Any
    vision_tower: Any

    def skip_unused_vision_layers(self) -> None:
        """Freeze the parts of the tower after the chosen feature layer, and let it stop there when it runs."""
        freeze_unused_layers(self.vision_tower, self.config.vision_feature_layer)
        self.make_tower_stoppable()

    def make_tower_stoppable(self) -> None:
        """Let the tower end its run after the last layer that is used; see `video_llm_tower_layers`."""
        for tower in towers_of(self.vision_tower):
            make_stoppable(vision_layers(tower))

    def encode_frames(
        self,
        frames: torch.Tensor | Sequence[torch.Tensor],
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Features of the chosen tower layer(s), computed a few frames at a time (`chunk_size`).

        Args:
            frames: `(num_frames, 3, height, width)`, normalised; or the frames of each of several clips.
            output_hidden_states: also return the output of every layer of the tower, which takes the memory of all
                layers for all frames. `None` uses the value in the configuration.
            output_attentions: also return the attention weights of the tower. Only eager attention returns them.
                `None` uses the value in the configuration.

        Returns:
            `last_hidden_state` is `(num_frames, tokens, vision_width)`, without the class token if
            `vision_feature_select_strategy` is `"default"`.

        Raises:
            ValueError: the tower does not accept frames of this shape, see `check_frames`.
        """
        clips = [frames] if isinstance(frames, torch.Tensor) else list(frames)
        for clip in clips:
            check_frames(clip, self.config.vision_config)
        record, total = self.new_record(output_hidden_states), sum(map(len, clips))

        def features_of_chunks() -> Iterator[torch.Tensor]:
            chunks = join_in_chunks(clips, self.chunk_size(clips)) if total else clips[:1]
            for outputs in self.run_vision_tower(chunks, output_attentions, record.keeps_hidden_states):
                record.add(outputs)
                features = self._select_features(outputs)
                # Otherwise the states of this chunk would be in memory while the tower encodes the next one.
                del outputs
                yield features
                del features

        output = BaseModelOutputWithPooling(last_hidden_state=join_parts(features_of_chunks(), total))
        record.write_to(output)
        return output

    def chunk_size(self, clips: Sequence[torch.Tensor]) -> int:
        """Frames that run through the tower at a time: `config.vision_chunk_size`, or as many as fit into a budget.

        Args:
            clips: the frames of each clip, `(frames, 3, height, width)`.

        Raises:
            ValueError: `vision_chunk_size` is less than 1.
        """
        if (size := chosen_chunk_size(self.config)) is not None:
            return size
        num_frames = sum(map(len, clips))
        shape = (num_frames, *clips[0].shape[1:])
        return tower_chunk_size(self.config.vision_config, shape, self.vision_tower.dtype, num_frames)

    def new_record(self, output_hidden_states: bool | None = None) -> TowerRecord:
        """An empty record; `output_hidden_states` as in `encode_frames`."""
        return TowerRecord(self.config.output_hidden_states if output_hidden_states is None else output_hidden_states)

    def run_vision_tower(
        self,
        chunks: Iterable[torch.Tensor],
        output_attentions: bool | None = None,
        keeps_hidden_states: bool = False,
    ) -> Iterator[BaseModelOutputWithPooling]:
        """Outputs of the tower, one for each of `chunks`.

        The tower stops at the last layer that is used, unless the outputs of all layers are wanted.

        Args:
            chunks: `(frames of the chunk, 3, height, width)` each, normalised.
            output_attentions: see `encode_frames`.
            keeps_hidden_states: `hidden_states` has all hidden states of the tower. Otherwise it has those that
                `choose_layers` reads, and may have `None` instead of the others.
        """
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        device = self.vision_tower.device
        for chunk in chunks:
            # If the tower's weights are on disk, its device is "meta"; accelerate loads them to the frames' device.
            frames = chunk.to(chunk.device if device.type == "meta" else device, self.vision_tower.dtype)
            if output_attentions or keeps_hidden_states:
                options = {"output_attentions": True} if output_attentions else {}
                yield self.vision_tower(pixel_values=frames, output_hidden_states=True, return_dict=True, **options)
            else:
                yield self._run_used_layers(frames)

    def _run_used_layers(self, frames: torch.Tensor) -> BaseModelOutputWithPooling:
        """Outputs of the tower for one chunk, with the hidden states that `choose_layers` reads."""
        used = self.used_hidden_states()
        if (run := partial_run(self.vision_tower, used)) is None:
            outputs: BaseModelOutputWithPooling = self.vision_tower(
                pixel_values=frames, output_hidden_states=bool(used), return_dict=True
            )
            return outputs
        with run:
            # What the tower returns is dropped: the parts after its layers got another input than in a run of all.
            self.vision_tower(pixel_values=frames, output_hidden_states=False, return_dict=True)
        return BaseModelOutputWithPooling(hidden_states=run.hidden_states())

    def used_hidden_states(self) -> Sequence[int]:
        """Indices of the hidden states that `choose_layers` reads, as in `vision_feature_layer`."""
        layers = self.config.vision_feature_layer
        return [layers] if isinstance(layers, int) else list(layers)

    def _select_features(self, outputs: Any) -> torch.Tensor:
        chosen = self.choose_layers(outputs)
        return chosen[:, 1:] if self.config.vision_feature_select_strategy == "default" else chosen

    def choose_layers(self, outputs: Any) -> torch.Tensor:
        """The chosen layer(s) of a tower's outputs, `(frames, tokens, width)`, class token included."""
        layers, states = self.config.vision_feature_layer, outputs.hidden_states
        return states[layers] if isinstance(layers, int) else torch.cat([states[i] for i in layers], -1)


def check_frames(frames: torch.Tensor, vision_config: Any) -> None:
    """Check that a tower can take frames of this shape.

    SigLIP accepts all frames with the right number of patches. If their rows and columns are not those of the
    configuration, it adds wrong position embeddings. Other towers check the size themselves, or take any size.

    Raises:
        ValueError: the number of channels or the size does not fit the tower.
    """
    channels = getattr(vision_config, "num_channels", None)
    if frames.ndim != 4 or channels not in (None, frames.shape[1]):
        raise ValueError(
            f"Frames must be (frames, {channels or 'channels'}, height, width), not of shape {tuple(frames.shape)}."
        )
    side = getattr(vision_config, "image_size", None)
    if vision_config.model_type == "siglip_vision_model" and tuple(frames.shape[2:]) != (side, side):
        raise ValueError(
            f"Frames of {frames.shape[2]} x {frames.shape[3]} pixels do not fit the vision tower, which takes "
            f"{side} x {side}: set size and crop_size of the processor."
        )


def vision_layers(vision_tower: Any) -> nn.ModuleList:
    """The list of layers of a vision tower of transformers, which each family names differently.

    Raises:
        ValueError: no list of layers was found.
    """
    num_layers = vision_tower.config.num_hidden_layers
    for module in vision_tower.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise ValueError(f"No list of {num_layers} layers found in the vision tower {type(vision_tower).__name__}.")


def towers_of(vision_tower: Any) -> list[Any]:
    """The vision tower; if it is in PEFT's `modules_to_save`, the copies of it that PEFT trains instead."""
    copies = getattr(vision_tower, "modules_to_save", None)
    return [vision_tower] if copies is None else list(copies.values())


def freeze_unused_layers(
    vision_tower: Any, selected: int | Sequence[int] | None, uses_closing_norm: bool = False
) -> None:
    """Freeze the parameters of a tower that never get a gradient: DistributedDataParallel would wait for one.

    The pooling head of SigLIP is switched off, too. It would fail if its weights were on disk: accelerate loads the
    weights of a module when the module is called, but torch's attention reads them without such a call.

    Args:
        vision_tower: a vision tower of any family of transformers.
        selected: the hidden state(s) that are used, as in `vision_feature_layer`; the last layer's output if `None`.
        uses_closing_norm: whether the features went through the norm after the last layer.

    Raises:
        ValueError: the tower has no such layer.
    """
    for tower in towers_of(vision_tower):
        if selected is not None:
            indices = [selected] if isinstance(selected, int) else list(selected)
            for layer in _layers_after(tower, indices):
                layer.requires_grad_(False)
        for module in tower.modules():
            if hasattr(module, "use_head"):
                module.use_head = False
        for name in POOLING_HEADS if uses_closing_norm else (*CLOSING_NORMS, *POOLING_HEADS):
            if isinstance(module := getattr(tower, name, None), nn.Module):
                module.requires_grad_(False)
        for name, parameter in tower.named_parameters():
            if name.endswith(MASK_TOKENS):
                parameter.requires_grad_(False)


def _layers_after(tower: Any, indices: Sequence[int]) -> nn.ModuleList:
    """The layers that run after the last of these hidden states was computed."""
    layers = vision_layers(tower)
    # The first hidden state is the output of the embeddings, so there is one more hidden state than layers.
    num_states = len(layers) + 1
    if not all(-num_states <= index < num_states for index in indices):
        selected = indices[0] if len(indices) == 1 else list(indices)
        raise ValueError(
            f"vision_feature_layer {selected} is out of range: the vision tower has {len(layers)} layers, so "
            f"{-num_states} to {num_states - 1} are possible."
        )
    return layers[max(index % num_states for index in indices) :]


def concatenate_layers(chunks: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    """Join per-chunk tuples of per-layer tensors along the frames."""
    return tuple(torch.cat(layer) for layer in zip(*chunks, strict=True))


__all__ = [
    "NORM_OF_POOLED_OUTPUT",
    "TowerRecord",
    "VisionTowerMixin",
    "check_frames",
    "concatenate_layers",
    "freeze_unused_layers",
    "towers_of",
    "vision_layers",
]
