"""IVA (Li et al., 2024): two tokens per frame, and an adapter by which the language model reads frame details again.

    frames (N,3,H,W) -> vision tower, layer -2 -> g (N, Dv), the class token; f (N, patches, Dv), the patches
    g, f             -> connector (section 3.2) -> two tokens of each frame, (2N, D), instead of the placeholders
    prompt           -> language model. Before some of its layers, the adapter (section 3.3) reads g and f, and changes
                        the hidden states of the query tokens, which stand at the end of the prompt.

Where to find the steps, in the order of the paper:

    modeling_iva.py     the connector (section 3.2; `IvaPatchWeight` has the logits of Eq. 1)
    iva_adapter.py      the adapter (section 3.3, Eq. 3 and 4)
    iva_queries.py      finds the query tokens of prompts, and the frames that each of them attends to
    iva_hooks.py        calls the adapter between the layers
    iva_generation.py   `generate`

Two terms: an `AdapterContext` is what the hooks need in one call of the language model (columns of the query tokens,
frames). `video_state` holds the frames of a prompt, so that a later call with a cache can read them again.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .configuration_iva import IvaConfig
from .iva_adapter import IvaAdapter, IvaProjection
from .iva_frames import IvaMediaOutput, MediumFrames, check_class_token, split_into_media
from .iva_generation import IvaGenerationMixin
from .iva_hooks import CONTEXT, AdapterContext, call_adapter, decoder_layers, drop_context
from .iva_queries import IvaQueryMixin, is_decoding_step
from .modeling_video_llm import VideoLlmForConditionalGeneration, VideoLlmModel
from .transformers_compat import hold_gradients
from .video_llm_chunks import join_in_chunks
from .video_llm_vision_tower import check_frames
from .video_llm_word_size import word_size


def frame_positions(num_frames: int, width: int) -> torch.Tensor:
    """Sinusoidal code of the numbers of the frames. It has no table, so it works for videos of any length.

    Returns:
        `(num_frames, width)` float32: first all sines, then all cosines. Their angle i is the number of the frame times
        10000^(-i / (width / 2)).
    """
    half = width // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float32) / half)
    angles = torch.arange(num_frames, dtype=torch.float32)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class IvaPatchWeight(nn.Module):
    """The logit of each patch in Eq. 1: a linear map of the patch to one number.

    It is not an `nn.Linear`, because quantizers and PEFT replace linear layers by their own. That would fail here: this
    module is named `weight` in checkpoints, and these libraries take `weight` for the name of a tensor.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, width))
        self.bias = nn.Parameter(torch.empty(1))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """`(frames, patches, width)` to `(frames, patches, 1)`."""
        return F.linear(patches, self.weight, self.bias)


class IvaPooling(nn.Module):
    """Eq. 1: the weighted mean of the patches of a frame. The weight of a patch is computed from the patch itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = IvaPatchWeight(width)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """`(frames, patches, width)` to `(frames, width)`."""
        weights = self.weight(patches).squeeze(-1).softmax(-1, dtype=torch.float32)
        return (weights.to(patches.dtype).unsqueeze(1) @ patches).squeeze(1)


class IvaCausalLayer(GradientCheckpointingLayer):
    """Eq. 2: one layer of the causal transformer over frames. A frame attends to itself and to earlier frames."""

    def __init__(self, config: IvaConfig) -> None:
        super().__init__()
        width = config.vision_width
        self.num_heads = config.causal_num_heads
        self.has_mlp_residual = config.causal_mlp_residual
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.causal_mlp_ratio * width),
            nn.GELU(),
            nn.Linear(config.causal_mlp_ratio * width, width),
        )

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """`(clips, frames, width)` to the same shape."""
        heads = self.qkv(self.attention_norm(frames)).unflatten(-1, (3, self.num_heads, -1)).transpose(1, 3)
        query, key, value = heads.unbind(2)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        frames = frames + self.out(attended.transpose(1, 2).flatten(-2))
        changed: torch.Tensor = self.mlp(self.mlp_norm(frames))
        return frames + changed if self.has_mlp_residual else changed


class IvaConnector(nn.Module):
    """Section 3.2: the two tokens of each frame.

    The global token v comes from the frame alone. The temporal token t comes from the frame and all earlier ones.
    """

    def __init__(self, config: IvaConfig) -> None:
        super().__init__()
        self.config = config
        width, text_width = config.vision_width, config.text_config.hidden_size
        self.pooling = IvaPooling(width)
        self.causal_layers = nn.ModuleList([IvaCausalLayer(config) for _ in range(config.causal_num_layers)])
        self.temporal = nn.Linear(width, text_width)
        self.global_mlp = nn.Sequential(nn.Linear(width, text_width), nn.GELU(), nn.Linear(text_width, text_width))

    def forward(
        self,
        global_features: torch.Tensor,
        pooled_features: torch.Tensor,
        num_frames: list[int],
        with_temporal: bool = True,
    ) -> list[torch.Tensor]:
        """Visual tokens of each clip.

        Args:
            global_features: g, `(sum(num_frames), vision_width)`.
            pooled_features: the pooled patches of each frame (a in Eq. 1), in the same shape.
            num_frames: frame count of each clip.
            with_temporal: make both tokens of each frame; otherwise make only the global token.

        Returns:
            One `(2 * frames, text_width)` tensor per clip, in the order of `config.frame_token_order`; `(frames,
            text_width)` without temporal tokens.
        """
        global_tokens = self.global_mlp(global_features).split(num_frames)
        if not with_temporal:
            return list(global_tokens)
        # Shorter clips are padded at their end. A frame attends only to itself and to earlier frames, so no frame of
        # a clip attends to its padding.
        frames = pad_sequence(list(pooled_features.split(num_frames)), batch_first=True)
        frames = frames + frame_positions(frames.shape[1], frames.shape[2]).to(frames)
        for layer in self.causal_layers:
            frames = layer(frames)
        temporal_tokens = [tokens[:count] for tokens, count in zip(self.temporal(frames), num_frames, strict=True)]
        pairs = zip(global_tokens, temporal_tokens, strict=True)
        if self.config.frame_token_order == "concatenated":
            return [torch.cat(pair) for pair in pairs]
        return [torch.stack(pair, dim=1).flatten(0, 1) for pair in pairs]


class IvaQueryTokens(nn.Module):
    """Section 3.3: the dynamic query tokens, which are M learned vectors."""

    def __init__(self, config: IvaConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_query_tokens, config.text_config.hidden_size))

    def forward(self, inputs_embeds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Replace embeddings by the M vectors, in order, in each block of M positions where `mask` is true.

        Args:
            inputs_embeds: `(batch, length, text_width)`.
            mask: bool, `(batch, length)`. A row may hold several blocks.
        """
        index = (mask.long().cumsum(-1) - 1).clamp(min=0) % len(self.weight)
        vectors = nn.functional.embedding(index.to(self.weight.device), self.weight)
        return torch.where(mask.unsqueeze(-1), vectors.to(inputs_embeds), inputs_embeds)


class IvaModel(IvaQueryMixin, VideoLlmModel):
    """IVA without a head: features for retrieval, serving engines and tests."""

    config_class = IvaConfig
    connector_class = IvaConnector
    connector: IvaConnector
    new_parts: ClassVar[tuple[str, ...]] = ("connector", "query_tokens", "adapter")
    encodes_features: ClassVar[bool] = True
    placeholder_hint: ClassVar[str] = (
        "Make the prompt with the processor of this checkpoint: it writes two placeholders per frame, and query tokens "
        "at the end."
    )
    _no_split_modules = ("IvaAdapterLayer",)

    def __init__(self, config: IvaConfig) -> None:
        # `from_pretrained` writes extra arguments into the configuration without a check, so it is checked here.
        config.validate_architecture()
        super().__init__(config)
        config = self.config
        if config.num_insertions:
            self.query_tokens = IvaQueryTokens(config)
            self.adapter = IvaAdapter(config)
            layers = decoder_layers(self.language_model, config.text_config.num_hidden_layers)
            for index, layer in enumerate(layers):
                hook = call_adapter if index in config.insertion_layers else drop_context
                layer.register_forward_pre_hook(hook, with_kwargs=True)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, IvaQueryTokens):
            self._start_queries(module)
        elif isinstance(module, IvaAdapter):
            self._start_adapter(module)
        elif (std := getattr(module, "initial_std", None)) is not None:
            init.normal_(module.weight, std=std)
        if isinstance(module, IvaPatchWeight):
            # transformers initialises the linear layers of the language model with this standard deviation, too.
            init.normal_(module.weight, std=getattr(self.config.text_config, "initializer_range", None) or 0.02)
        if isinstance(module, (IvaProjection, IvaPatchWeight)):
            init.zeros_(module.bias)

    def _start_queries(self, queries: IvaQueryTokens) -> None:
        """Draw query tokens as large as the words among which they stand.

        If they were far smaller, the norms of the language model would magnify what the adapter adds to them, and the
        gradients of its weights, a hundredfold.
        """
        vectors = torch.randn_like(queries.weight, dtype=torch.float32)
        size = word_size(self.get_input_embeddings()) or 0.02
        init.copy_(queries.weight, vectors * (size / vectors.square().mean().sqrt()))

    def _start_adapter(self, adapter: IvaAdapter) -> None:
        """Make the result of the adapter's last layer no larger than words.

        This result times `output` is what the adapter adds to query tokens. `output` starts at 0, and Adam's first step
        changes all its weights by the learning rate, whatever their gradients are. If the result were as large as the
        features of a vision tower, that step would throw the query tokens far away.
        """
        value: Any = adapter.layers[-1].get_submodule("interactor.value")
        size = word_size(self.get_input_embeddings())
        if size is not None and size < 1:
            # A power of two, so that the weights do not depend on how the embeddings are rounded.
            init.normal_(value.weight, std=2.0 ** round(math.log2(size)) * value.initial_std)

    def output_weights(self) -> dict[str, list[nn.Parameter]]:
        connector: Any = self.connector
        first, _, last = connector.global_mlp
        return {
            "connector.temporal": [connector.temporal.weight],
            "connector.global_mlp": [first.weight, last.weight],
        }

    def covers_visual_parts(self, present: Collection[str]) -> bool:
        """Whether a batch uses all visual parts. Images use pooling and causal layers only for a temporal token."""
        return "video" in present or ("image" in present and self.config.image_temporal_token)

    def encode_blank_frames(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """As in the base class, but the blank frame is encoded as a video, because an image may skip parts."""
        return list(self.get_video_features(frames.unsqueeze(0), return_dict=True).pooler_output)

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> IvaMediaOutput:
        """As in the base class: an image is a video of one frame. Returns what `encode_clips` returns."""
        return self.encode_clips(list(pixel_values.split(1)), self.config.image_temporal_token, **kwargs)

    @can_return_tuple
    def get_video_features(
        self, pixel_values_videos: torch.Tensor, num_video_frames: torch.Tensor | None = None, **kwargs: Any
    ) -> IvaMediaOutput:
        """As in the base class. Returns what `encode_clips` returns."""
        return self.encode_clips(self.split_videos(pixel_values_videos, num_video_frames), **kwargs)

    def encode_clips(
        self,
        clips: Sequence[torch.Tensor],
        with_temporal: bool = True,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> IvaMediaOutput:
        """Encode the frames of clips, a few at a time (`chunk_size`).

        Args:
            clips: `(frames, 3, height, width)` each, normalised.
            with_temporal: make both tokens of each frame; otherwise make only the global token.
            output_hidden_states: as in `encode_frames` of the base.
            output_attentions: as in `encode_frames` of the base.

        Returns:
            `pooler_output` is a list with one `(num_tokens, text_width)` tensor per clip. With an adapter, `frames` is
            a list with one `MediumFrames` per clip: g and f, which the adapter attends to.
        """
        num_frames = [len(clip) for clip in clips]
        record = self.new_record(output_hidden_states)
        # With gradient checkpointing, transformers makes even a frozen tower keep the tensors that gradients would
        # need. `detach` below lets go of them.
        is_frozen = not any(tensor.requires_grad for tensor in (*self.vision_tower.parameters(), *clips))

        def features_of_chunks() -> Iterable[torch.Tensor]:
            chunks = join_in_chunks(clips, self.chunk_size(clips))
            for clip in clips:
                check_frames(clip, self.config.vision_config)
            for outputs in self.run_vision_tower(chunks, output_attentions, record.keeps_hidden_states):
                record.add(outputs)
                features = self.choose_layers(outputs)
                # Otherwise the states of this chunk would be in memory while the tower encodes the next one.
                del outputs
                check_class_token(features.shape[1], clips[0], self.config)
                yield features.detach() if is_frozen else features
                del features

        output = self.encode_features(features_of_chunks(), num_frames, with_temporal)
        record.write_to(output)
        return output

    def encode_features(
        self, chunks: Iterable[torch.Tensor], num_frames: list[int], with_temporal: bool = True
    ) -> IvaMediaOutput:
        """Visual tokens of clips from features of the vision tower.

        Args:
            chunks: `(frames of the chunk, tokens, vision_width)` each, features of the chosen layer(s), with the class
                token first unless `vision_feature_select_strategy` is `"full"`. Together they hold all frames of all
                clips.
            num_frames: frame count of each clip.
            with_temporal: make both tokens of each frame; otherwise make only the global token.

        Returns:
            See `encode_clips`.
        """
        keeps_on_device = sum(num_frames) <= self.config.max_frames_on_device
        global_chunks, pooled_chunks, patch_chunks = [], [], []
        for tokens in chunks:
            global_features, patches = self._split_features(tokens)
            global_chunks.append(global_features)
            if with_temporal:
                pooled_chunks.append(self.connector.pooling(patches))
            patch_chunks.append(patches if keeps_on_device else patches.to("cpu"))
            del tokens, patches
        global_features = torch.cat(global_chunks)
        pooled = torch.cat(pooled_chunks) if with_temporal else global_features
        output = IvaMediaOutput(pooler_output=self.connector(global_features, pooled, num_frames, with_temporal))
        if self.config.num_insertions:
            output.frames = [
                MediumFrames(features, parts)
                for features, parts in zip(
                    global_features.split(num_frames), split_into_media(patch_chunks, num_frames), strict=True
                )
            ]
        return output

    def _split_features(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """g and f of some frames.

        With a class token, both are copies, because views would keep the whole output of the tower in memory.
        """
        if self.config.vision_feature_select_strategy == "full":
            return tokens.mean(1), tokens
        return tokens[:, 0].clone(), tokens[:, 1:].contiguous()

    def run_language_model(
        self,
        inputs_embeds: torch.Tensor,
        features: dict[str, BaseModelOutputWithPooling],
        masks: dict[str, torch.Tensor],
        input_ids: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        cache: Cache | None = None,
        video_state: Any = None,
        record: list[AdapterContext] | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As in the base class, with two additions. First, learned vectors become the embeddings of the query tokens.
        Then, before some of the layers, the adapter changes the hidden states of the query tokens.

        Args:
            video_state: frames of media whose visual tokens are in the cache; see `IvaForConditionalGeneration`.
            record: a list to which this method appends the context of the call, which then also holds the attention
                weights of the adapter.

        Raises:
            ValueError: the prompts have query tokens without media, or media without query tokens; or the language
                model does not call the adapter.
        """
        context = None
        # All query tokens are in the prompt, so the adapter is not called in the decoding steps after it.
        if features or video_state is not None or not is_decoding_step(inputs_embeds, cache):
            queries = self.find_queries(input_ids, prompt_embeds)
            context = self.make_adapter_context(queries, features, masks, video_state)
        if context is not None:
            if record is not None:
                context.selections = []
                record.append(context)
            inputs_embeds = hold_gradients(self.query_tokens(inputs_embeds, queries), context)
            kwargs[CONTEXT] = context
        outputs = super().run_language_model(
            inputs_embeds, features, masks, input_ids=input_ids, prompt_embeds=prompt_embeds, cache=cache, **kwargs
        )
        if context is not None:
            self._check_calls(context)
        return outputs

    def _check_calls(self, context: AdapterContext) -> None:
        """Check that the hooks on the decoder layers got the context.

        Raises:
            ValueError: the language model does not pass keyword arguments on to its layers.
        """
        expected = len(self.config.insertion_layers)
        if context.num_calls != expected:
            raise ValueError(
                f"{type(self.language_model).__name__} called the adapter {context.num_calls} times instead of "
                f"{expected}: it does not pass keyword arguments on to its layers. Use a LLaMA-like language model "
                "(llama, qwen2, qwen3, mistral, gemma2, phi3, ...), or num_insertions=0 for a model without adapter."
            )

    @torch.no_grad()
    def get_frame_attentions(self, **inputs: Any) -> list[torch.Tensor]:
        """The weights A of Eq. 3: how much each query token attends to each frame.

        Args:
            inputs: arguments of a forward.

        Returns:
            One `(calls of the adapter, layers of the adapter, queries, frames)` float32 tensor per row of the batch.
            The frames are those of `video_state`, then those of the row's images, then those of its videos. A batch
            without media has 0 queries and 0 frames.

        Raises:
            ValueError: the model has no adapter.
        """
        if not self.config.num_insertions:
            raise ValueError("num_insertions is 0: this model has no adapter, and so no attention over frames.")
        record: list[AdapterContext] = []
        last_hidden_state = self(**inputs, record=record).last_hidden_state
        if not record:
            empty = last_hidden_state.new_zeros(
                len(self.config.insertion_layers), self.config.num_adapter_layers, 0, 0, dtype=torch.float32
            )
            return [empty] * len(last_hidden_state)
        context = record[0]
        weights = torch.stack([torch.stack(pairs) for pairs in context.selections or []]).float()
        return [weights[:, :, row, valid][..., context.frames.rows == row] for row, valid in enumerate(context.valid)]


class IvaForConditionalGeneration(IvaGenerationMixin, VideoLlmForConditionalGeneration):
    """IVA that answers questions on videos and images.

    A prompt holds its media, the question, the header of the answer, and then the query tokens. To ask a second
    question on a cached prompt, shorten the cache with `crop_to_queries`, and pass the output of `get_video_features`
    as `video_state`: the cache holds the visual tokens, but the adapter also needs the features of the frames.
    """

    config_class = IvaConfig
    model_class = IvaModel


__all__ = [
    "IvaCausalLayer",
    "IvaConnector",
    "IvaForConditionalGeneration",
    "IvaModel",
    "IvaPatchWeight",
    "IvaPooling",
    "IvaQueryTokens",
    "frame_positions",
]
