"""Processor of IVA: writes two placeholders for each frame, and a block of query tokens right before the answer."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from .chat_template_vicuna import query_chat_template
from .configuration_iva import num_visual_tokens
from .processing_video_llm import VideoLlmProcessor, VideoLlmProcessorKwargs, placeholder_id, write_replacements

QUERY_TOKEN = "<iva_query>"
QUERY_PLACEMENTS = ("last", "every")
# If a user wrote a control token that must remain plain text, transformers puts a private-use character before it
# (`sanitize_control_tokens`). This pattern keeps such a token from being read as a query token.
_NOT_MARKED = "(?<![\U000f0000-\U0010ffff])"


IvaProcessorKwargs = VideoLlmProcessorKwargs


class IvaProcessor(VideoLlmProcessor):
    """Makes model inputs for IVA.

    If the tokenizer has no chat template, a chat becomes "USER: <video>\\nquestion ASSISTANT:" and a block of query
    tokens. The block is the end of the input, as in section 3.3 of the paper, and the answer begins after it.
    Conversations without media have no query tokens.

    With `query_placement="last"`, a conversation of several rounds has one block, before its last answer. Only that
    answer is marked for the loss, so every round is a sample of its own (paper, Eq. 5). With `"every"`, there is a
    block before every answer that has media before it, and all answers are marked for the loss. `apply_chat_template`
    also takes `query_placement`, which overrides that of the processor.

    In a prompt written by hand, write `<iva_query>` once for a block; a prompt with media needs one after the question.
    """

    default_chat_template = query_chat_template(QUERY_TOKEN)
    PLACEHOLDERS: ClassVar[Mapping[str, str]] = {**VideoLlmProcessor.PLACEHOLDERS, "query": QUERY_TOKEN}

    def pairing(self) -> dict[str, Any]:
        """As in `ProcessorContract`, and the options that decide where and how many placeholders a prompt has."""
        return {
            **super().pairing(),
            "query_token_id": self.query_token_id,
            "number of query tokens": self.num_query_tokens,
            "image_temporal_token": self.image_temporal_token,
            "query_placement": self.query_placement,
        }

    @classmethod
    def options_from_config(cls, config: Any) -> dict[str, Any]:
        """See the function `processor_options`."""
        return processor_options(config)

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        video_processor: Any = None,
        chat_template: str | dict[str, str] | None = None,
        image_token: str = "<image>",
        video_token: str = "<video>",
        query_token: str = QUERY_TOKEN,
        num_query_tokens: int = 16,
        query_placement: Literal["last", "every"] = "last",
        image_temporal_token: bool = True,
    ) -> None:
        """Args:
        query_token: text of the placeholder of query tokens, one token of the tokenizer.
        num_query_tokens: M, the length of a block of query tokens; 0 for a model without the adapter, whose prompts
            have none.
        query_placement: which answers of a chat have a block before them: `"last"` or `"every"`.
        image_temporal_token: whether an image has two placeholders, as a frame of a video has, or only that of its
            global token.

        `processor_options` reads the last three arguments from a configuration.

        Raises:
            ValueError: `num_query_tokens` is below 0, the placement is unknown, or the tokenizer lacks `query_token`.
        """
        if num_query_tokens < 0:
            raise ValueError(f"num_query_tokens must be at least 0, not {num_query_tokens}.")
        check_placement(query_placement, QUERY_PLACEMENTS)
        self.query_token = query_token
        self.query_token_id = query_token_id(tokenizer, query_token) if num_query_tokens else None
        self.num_query_tokens = num_query_tokens
        self.query_placement = query_placement
        self.image_temporal_token = image_temporal_token
        super().__init__(image_processor, tokenizer, video_processor, chat_template, image_token, video_token)

    def design_chat_template(self) -> str | None:
        return query_chat_template(self.query_token)

    @property
    def prompt_query_token(self) -> str | None:
        return self.query_token

    def num_image_tokens(self) -> int:
        """Two placeholders, or one without `image_temporal_token`; the model uses the same rule."""
        return num_visual_tokens(1, self.image_temporal_token)

    def num_video_tokens(self, num_frames: int) -> int:
        """Two placeholders per frame; the model uses the same rule."""
        return num_visual_tokens(num_frames)

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *args: Any,
        query_placement: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers.

        Args:
            query_placement: `"last"`, `"every"` or `"none"`; if `None`, the `query_placement` of the processor.

        Raises:
            ValueError: the placement is unknown; the chat template does not read it; or the placement asks for query
                tokens, but the processor has `num_query_tokens=0`.
        """
        check_placement(query_placement, (None, "none", *QUERY_PLACEMENTS))
        if query_placement in QUERY_PLACEMENTS and not self.num_query_tokens:
            raise ValueError(
                f"query_placement={query_placement!r}, but num_query_tokens is 0: the model of this processor has no "
                "adapter."
            )
        placement = query_placement or (self.query_placement if self.num_query_tokens else "none")
        if "query_placement" in str(chat_template or self.chat_template):
            kwargs["query_placement"] = placement
        elif query_placement is not None:
            raise ValueError(
                f"query_placement={query_placement!r}, but this chat template does not read it: leave it out, or take "
                "the template that came with the processor."
            )
        return super().apply_chat_template(conversation, chat_template, *args, **kwargs)

    def get_text_with_replacements(
        self,
        text: list[str],
        images_replacements: Sequence[str] = (),
        videos_replacements: Sequence[str] = (),
        audio_replacements: Sequence[str] = (),
    ) -> tuple[list[str], list[dict[str, Any]]]:
        """As in transformers. Each query token becomes a block of `num_query_tokens`.

        Raises:
            ValueError: there are several query tokens in a row, but not `num_query_tokens`.
        """
        originals = list(text)
        _, media = super().get_text_with_replacements(
            list(text), list(images_replacements), list(videos_replacements), list(audio_replacements)
        )
        expanded: list[str] = []
        offsets: list[Any] = []
        for sample, replacements in zip(originals, media, strict=True):
            written, entries = write_replacements(sample, [*replacements, *self._query_blocks(sample)])
            expanded.append(written)
            offsets.append(entries)
        return expanded, offsets

    def _query_blocks(self, sample: str) -> list[dict[str, Any]]:
        """The blocks of query tokens in a prompt, in the form of transformers' replacements."""
        block = self.query_token * self.num_query_tokens
        blocks: list[dict[str, Any]] = []
        for match in re.finditer(f"{_NOT_MARKED}(?:{re.escape(self.query_token)})+", sample):
            count = match.group().count(self.query_token)
            # A prompt whose query tokens were expanded before already holds whole blocks, which do not change.
            if count not in (1, self.num_query_tokens):
                raise ValueError(
                    f"The prompt holds {count} {self.query_token} in a row: write it once where the block of query "
                    f"tokens belongs, and it becomes {self.num_query_tokens} (num_query_tokens)."
                )
            blocks.append({"type": "query", "span": match.span(), "text": match.group(), "replacement": block})
        return blocks

    def _check_special_mm_tokens(self, text: list[str], text_inputs: Any, modalities: list[str]) -> None:
        # Query tokens are checked, too: truncation cuts off the end of a prompt, where they are.
        super()._check_special_mm_tokens(text, text_inputs, [*modalities, "query"])


def check_placement(placement: str | None, known: Sequence[str | None]) -> None:
    """Raises `ValueError` for a placement of query tokens that is not known."""
    if placement not in known:
        names = ", ".join(name for name in known if name is not None)
        raise ValueError(f"query_placement must be one of {names}, not {placement!r}.")


def query_token_id(tokenizer: Any, token: str) -> int | None:
    """Id of the query token; `None` without a tokenizer.

    Raises:
        ValueError: the tokenizer has no such token, or splits it.
    """
    token_id = placeholder_id(tokenizer, token)
    if token_id is not None and tokenizer(token, add_special_tokens=False)["input_ids"] != [token_id]:
        raise ValueError(
            f"The tokenizer splits {token!r}, the placeholder of query tokens, into several tokens: call "
            f"tokenizer.add_special_tokens({{'additional_special_tokens': [{token!r}]}}) to make it one token."
        )
    return token_id


def processor_options(config: Any) -> dict[str, Any]:
    """Arguments of `IvaProcessor` that must fit the model.

    Args:
        config: an `IvaConfig`.
    """
    return {
        "num_query_tokens": config.num_query_tokens if config.num_insertions else 0,
        "query_placement": config.query_placement,
        "image_temporal_token": config.image_temporal_token,
    }


__all__ = ["IvaProcessor", "IvaProcessorKwargs", "processor_options", "query_token_id"]
