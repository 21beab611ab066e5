"""The part of the pipeline that watches media once for several questions."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import Cache, ImageTextToTextPipeline
from transformers.pipelines.image_text_to_text import ReturnType

from .media_video_inputs import is_single_video
from .video_llm_checked_processor import CheckedProcessor
from .video_llm_generation_options import option_value
from .video_llm_kept_prompt import KeptPrompt
from .video_llm_media_digests import MediaSources
from .video_llm_session import VideoSession
from .video_llm_session_answers import SessionAnswers, question_batches
from .video_llm_session_options import check_count, how_to_answer
from .video_llm_session_prompts import SessionPrompts, media_blocks
from .video_llm_watched_media import MediaMemory, watch

# The largest number of questions that are answered at once, if a call does not name one.
MOST_TOGETHER = 8
# Options of a call that only the ordinary way takes: what they do depends on each prompt.
OF_ONE_PROMPT = frozenset({"continue_final_message", "questions", "processor_kwargs", "tools", "documents"})
# Options of a call that a session has no use for: it has its own batches, and returns texts.
OF_CALLS = frozenset(
    {
        "return_full_text",
        "return_tensors",
        "return_type",
        "clean_up_tokenization_spaces",
        "skip_special_tokens",
        "continue_final_message",
        "batch_size",
        "num_workers",
    }
)


class PipelineSessionsMixin:
    """For a pipeline of `ImageTextToTextPipeline`.

    Attributes:
        memory: encoded media of earlier calls with several questions, and of `open`; off by default. Switch it on by
            `pipe.memory = MediaMemory(2 << 30)`.
    """

    memory: MediaMemory | None = None
    model: Any
    processor: Any
    device: Any
    takes_audio: Any
    _sanitize_parameters: Any
    _preprocess_params: dict[str, Any]
    _forward_params: dict[str, Any]
    _postprocess_params: dict[str, Any]
    postprocess: Any
    device_placement: Any

    def open(
        self, videos: Any = None, *, images: Any = None, audio: Any = None, cache: Cache | None = None, **options: Any
    ) -> VideoSession:
        """Watch media once, to ask many questions about them.

        Example:

        ```python
        with pipe.open("clip.mp4", num_frames=16) as session:
            print(session.ask("What happens?"))
        ```

        Args:
            videos: a video or a list of videos, as in a call.
            images: an image or a list of images.
            audio: a sound or a list of sounds, for models that can hear.
            cache: see `VideoSession`.
            options: options of a call of the pipeline: for media, for the chat template, and for `generate`.

        Raises:
            ValueError: see `VideoSession`.
            TypeError: an option is unknown.
            MediaError: a medium cannot be read.
        """
        for name in OF_CALLS & set(options):
            raise TypeError(f"{name} belongs to calls of the pipeline, and a session returns texts: leave it out.")
        media_options, rendering, answering, _ = self._split_options(options)
        return VideoSession(
            self.model,
            self.processor,
            videos,
            images=images,
            audio=audio,
            cache=cache,
            rendering=rendering,
            memory=self.memory,
            answer_options=answering,
            **media_options,
        )

    def _split_options(
        self, options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Options of a call and of this pipeline: for media, for the template, for `generate`, for the results."""
        preprocess, forward, postprocess = self._sanitize_parameters(**options)
        rendering = {**self._preprocess_params, **preprocess}
        media_options = dict(rendering.pop("processor_kwargs", None) or {})
        answering = dict({**self._forward_params, **forward}.get("generate_kwargs") or {})
        for name in self.model.base_model.media_options:
            # The encoder has read this option before `generate` runs.
            answering.pop(name, None)
        return media_options, rendering, answering, {**self._postprocess_params, **postprocess}

    def _answer_together(
        self, media: Mapping[str, Any], texts: Sequence[str], options: Mapping[str, Any]
    ) -> list[Any] | None:
        """Answer several questions about the same media, which are watched once; with a memory, also a single one.

        Args:
            media: `videos`, `images` and `audio` as the user passed them.
            texts: the questions.
            options: of the call.

        Returns:
            What the pipeline returns for a list of questions. `None` if each question needs a call of its own: there
            are no media, the media differ, or the texts are whole prompts.
        """
        if (
            len(texts) < (2 if self.memory is None else 1)
            or not self._share_media(media, texts)
            or OF_ONE_PROMPT & set(options)
        ):
            return None
        media_options, rendering, answering, postprocess = self._split_options(
            {name: value for name, value in options.items() if name not in ("batch_size", "num_workers")}
        )
        if self._value_of("assistant_model", answering) is not None:
            # The assistant has to see the media itself.
            return None
        how = how_to_answer(lambda name: self._value_of(name, answering))
        blocks = media_blocks(**media)
        prompts = SessionPrompts(self.processor, blocks, rendering)
        shared = {name: media_options[name] for name in self.model.base_model.media_options if name in media_options}
        kept = KeptPrompt(self.model, self.processor.PROMPT_KEYS, shared)
        # Without a memory, nobody asks for digests.
        sources = None if self.memory is None else MediaSources(blocks)
        watched = watch(prompts, kept, sources, media_options, self.memory)
        answers = SessionAnswers(kept, self.processor, watched, prompts.head_ids)
        written = [prompts.write([text]) for text in texts]
        size = options.get("batch_size")
        if size is None:
            size = getattr(self, "_batch_size", None) or MOST_TOGETHER
        check_count("batch_size", size)
        # Who asks for tokens would get the padding between media and question, too.
        unpadded = how.unpadded or postprocess.get("return_type") == ReturnType.TENSORS
        results: dict[int, list[Any]] = {}
        with self.device_placement(), torch.no_grad():
            for members in question_batches(answers, written, 1 if how.alone else size, unpadded):
                shown = [texts[number] for number in members]

                def generate(inputs: dict[str, Any], shown: list[str] = shown) -> Any:
                    return ImageTextToTextPipeline._forward(self, {**inputs, "text": shown}, dict(answering))

                prompts_of_batch = [written[number] for number in members]
                outputs, _ = answers.run(prompts_of_batch, how.copies, generate, how.uses_cache)
                records = self.postprocess(outputs, **postprocess)
                each = len(records) // len(members)
                results.update({number: records[at * each :][:each] for at, number in enumerate(members)})
        return [results[number] for number in range(len(texts))]

    def _value_of(self, name: str, answering: Mapping[str, Any]) -> Any:
        """The value of an option of `generate`, wherever it was set."""
        # transformers keeps the options that the pipeline was made with under one of these names.
        made_with = {"generation_config": getattr(self, "generation_config", None)}
        made_with |= getattr(self, "_generate_kwargs", {})
        return option_value(self.model, name, {**made_with, **answering})

    def _share_media(self, media: Mapping[str, Any], texts: Sequence[str]) -> bool:
        """Whether several texts are questions about the same media."""
        given = {kind: items for kind, items in media.items() if items is not None}
        if not given or not isinstance(self.processor, CheckedProcessor):
            return False
        if getattr(self.processor, "chat_template", None) is None or ("audio" in given and not self.takes_audio):
            return False
        if len(texts) > 1 and not all(_is_one(kind, items) for kind, items in given.items()):
            return False
        tokens = self.processor.all_special_multimodal_tokens
        return not any(token in text for token in tokens for text in texts)


def _is_one(kind: str, items: Any) -> bool:
    """Whether this is one medium. A list of pictures is one video, but several images."""
    return is_single_video(items) if kind == "videos" else not isinstance(items, list | tuple)


__all__ = ["MOST_TOGETHER", "PipelineSessionsMixin"]
