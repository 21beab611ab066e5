"""Many questions about the same media: they are decoded, encoded and read by the language model once.

    media    -> processor -> tower, connector -> language model, whose keys and values are kept      when it opens
    question -> cache cut back to the end of the media -> language model over the question -> answer     `ask`

`video_llm_session_prompts.py` writes the prompts, `video_llm_session_answers.py` makes the inputs of `generate`.
"""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast, overload

import torch
from transformers import Cache, GenerationConfig

from .configuration_video_llm import context_length
from .errors import one_line, warn_caller
from .video_llm_generation_options import option_value
from .video_llm_identity import model_identity, processor_identity
from .video_llm_kept_prompt import KeptPrompt
from .video_llm_media_digests import MediaSources
from .video_llm_model_stamp import ModelStamp
from .video_llm_option_names import merged_options, refuse_unknown
from .video_llm_session_answers import SessionAnswers, question_batches
from .video_llm_session_checks import (
    OF_ASK,
    Turns,
    check_answer_options,
    check_question,
    check_questions,
    check_switches,
    one_at_a_time,
)
from .video_llm_session_disk import refuse_other_than_file
from .video_llm_session_file import (
    SavedSession,
    check_options,
    check_sources,
    misfit,
    read_session,
    saved_prompts,
    split_storable,
    write_session,
)
from .video_llm_session_options import HowToAnswer, check_count, end_in_context, how_to_answer
from .video_llm_session_prompts import SessionPrompt, SessionPrompts, media_blocks, with_prompt_options
from .video_llm_session_stream import AnswerStream
from .video_llm_watched_media import MediaMemory, WatchedMedia, watch

# The longest answer, if neither the call nor the model says how long it may be; as in the pipeline.
MAX_NEW_TOKENS = 256


class VideoSession:
    """Videos, images and sounds that were watched once, to be asked about many times.

    The answers are those of the pipeline for the same question: in float32, with the same tokens.

    Example:

    ```python
    with VideoSession(model, processor, "clip.mp4", num_frames=16) as session:
        print(session.ask("What happens?"))
        print(session.ask("And then?", follow_up=True))
        print(session.ask(["Who is there?", "Where is it?"]))
        for piece in session.ask("Describe the video.", stream=True):
            print(piece, end="", flush=True)
    ```

    Attributes:
        history: the conversation: question, answer, question, answer.
        frames: numbers of the sampled frames of each video, if the source has numbers.
        num_media_tokens: tokens of the prompt before the question.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        videos: Any = None,
        *,
        images: Any = None,
        audio: Any = None,
        cache: Cache | None = None,
        answer_options: Mapping[str, Any] | None = None,
        rendering: Mapping[str, Any] | None = None,
        memory: MediaMemory | None = None,
        **media_options: Any,
    ) -> None:
        """Watch the media.

        Args:
            model: a model of this package that generates.
            processor: its processor.
            videos: a video or a list of videos, as in a call of the pipeline.
            images: an image or a list of images.
            audio: a sound or a list of sounds, for models that can hear.
            cache: an empty cache of transformers that can be cut, such as a `StaticCache`; by default a
                `DynamicCache`.
            answer_options: options of `generate` for all questions; a call of `ask` may replace them.
            rendering: options of `apply_chat_template`, such as `chat_template`.
            memory: encoded media of earlier sessions, which are not encoded again.
            media_options: options of the processor for media: `num_frames`, `start`, `num_tokens_per_frame`, ...; and
                `recondition` of LinVT.

        Raises:
            ValueError: there are no media, they do not fit into the context, or the cache cannot be cut.
            TypeError: an option is unknown, or the model cannot answer.
            MediaError: a medium cannot be read.
        """
        if not hasattr(model, "get_video_features") or not model.can_generate():
            raise TypeError(
                f"{type(model).__name__} is not a video-language model that can generate: it cannot answer."
            )
        check_answer_options(model, answer_options or {})
        blocks = media_blocks(videos, images, audio)
        prompts = SessionPrompts(processor, blocks, with_prompt_options(processor, rendering, media_options))
        shared = {name: media_options[name] for name in model.base_model.media_options if name in media_options}
        kept = KeptPrompt(model, processor.PROMPT_KEYS, shared, cache)
        # Before the media are read: what was read is told from what stands there, or is set, when it is saved.
        self._sources: MediaSources | None = MediaSources(blocks)
        self._processor_identity = processor_identity(processor)
        watched = watch(prompts, kept, self._sources, media_options, memory)
        self._begin_session(model, processor, prompts, kept, watched, answer_options)
        self._media_options = media_options

    def _begin_session(
        self,
        model: Any,
        processor: Any,
        prompts: SessionPrompts,
        kept: KeptPrompt,
        watched: WatchedMedia,
        answer_options: Mapping[str, Any] | None,
    ) -> None:
        """Take media that are encoded, and let the language model read them, unless the cache holds them already."""
        self.model = model
        self.processor = processor
        self.answer_options = dict(answer_options or {})
        self.turns = Turns()
        self.history: list[str] = []
        self.frames = watched.frames
        self._stream: AnswerStream | None = None
        self._how(*self._configured(self.answer_options))
        self._prompts = prompts
        self._stamp = ModelStamp(model)
        self._watched: WatchedMedia | None = watched
        self._answers: SessionAnswers | None = SessionAnswers(kept, processor, watched, prompts.head_ids)
        self._check_room(prompts.head_ids, 1)
        self._answers.prepare()

    @classmethod
    def open_saved(
        cls,
        path: str | os.PathLike[str],
        model: Any,
        processor: Any,
        videos: Any = None,
        *,
        images: Any = None,
        audio: Any = None,
        cache: Cache | None = None,
        answer_options: Mapping[str, Any] | None = None,
        **media_options: Any,
    ) -> "VideoSession":
        """Open a session that `save` has written. Nothing is decoded, encoded or read by the language model again.

        Args:
            path: of the file.
            model: the model that the session was saved with: the same weights in the same precision.
            processor: its processor, with the same settings.
            videos: if media are passed, the file is refused unless it was made from exactly these bytes.
            images: likewise.
            audio: likewise.
            cache: see `VideoSession`.
            answer_options: see `VideoSession`; they replace those that the session was saved with.
            media_options: if options of media are passed, the file is refused unless it was made with them.

        Raises:
            CheckpointError: the file is damaged, or was saved with another model, precision, processor, other media or
                other options.
            FileNotFoundError: there is no such file.
        """
        check_answer_options(model, answer_options or {})
        saved = read_session(path, model, processor)
        check_sources(path, saved.watched.digests, media_blocks(videos, images, audio))
        made_with = {**saved.media_options, **saved.rendering}
        refuse_unknown(media_options, {*processor.known_options(), *made_with}, "VideoSession.open_saved")
        check_options(path, made_with, media_options)
        prompts = saved_prompts(path, saved, processor)
        kept = KeptPrompt(model, processor.PROMPT_KEYS, empty_cache=cache)
        kept.adopt(saved.watched.encoded, saved.watched.types)
        if saved.states is not None:
            kept.kept.fill(saved.head_ids, saved.states)
        session = cls.__new__(cls)
        answering = merged_options(saved.answer_options, answer_options or {})
        session._begin_session(model, processor, prompts, kept, saved.watched, answering)
        if session.open_answers().shares_prefix == (saved.states is None):
            raise misfit(path, "the keys and values")
        session._sources, session._media_options = None, saved.media_options
        session._processor_identity = processor_identity(processor)
        return session

    @one_at_a_time
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the encoded media and the keys and values of the language model into one file, for `open_saved`.

        The conversation is not saved. `answer_options` are, as far as JSON can hold them; a warning names the others.

        Args:
            path: of the file, which is replaced if there is one. Missing folders are made, as by `save_pretrained`.

        Raises:
            ValueError: the session is closed, a file of the media has changed since it was opened, an option of media
                or prompts has no form that can be written, or the name is empty or not that of a regular file.
            OSError: the file cannot be written.
        """
        path = refuse_other_than_file(path)
        answers = self.open_answers()
        answers.prepare()
        assert self._watched is not None
        watched = self._watched
        if self._sources is not None:
            watched = replace(watched, digests=self._sources.digests() or [])
        if not watched.digests:
            warn_caller(
                f"{path} will not say from which media it was made, as their bytes are not at hand (media from the "
                "web, or an object that cannot be read again): open it without media."
            )
        states = answers.kept.kept.states(self.num_media_tokens) if answers.shares_prefix else None
        answering, others = split_storable(self.answer_options)
        if others:
            warn_caller(f"{path} does not hold {', '.join(others)}: pass answer_options again when it is opened.")
        options = dict(self._media_options), self._prompts.options, answering
        saved = SavedSession(watched, self._prompts.head_ids, states, *options)
        identity = {**model_identity(self.model, every_value=True), "processor": self._processor_identity}
        return write_session(path, saved, identity)

    @property
    def num_media_tokens(self) -> int:
        """Number of tokens before the question: those of the media, and of the text before them."""
        return len(self._prompts.head_ids)

    @property
    def media_options(self) -> dict[str, Any]:
        """The options of media that the session was opened with."""
        return dict(self._media_options)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._answers is None

    @overload
    def ask(
        self, question: str, *, follow_up: bool = ..., stream: bool = ..., batch_size: int = ..., **options: Any
    ) -> Any: ...

    @overload
    def ask(
        self,
        question: Sequence[str],
        *,
        follow_up: bool = ...,
        stream: bool = ...,
        batch_size: int = ...,
        **options: Any,
    ) -> list[str]: ...

    def ask(
        self,
        question: str | Sequence[str],
        *,
        follow_up: bool = False,
        stream: bool = False,
        batch_size: int = 16,
        **options: Any,
    ) -> Any:
        """Answer a question, or a list of questions as one batch.

        Args:
            question: one question, which begins a new conversation or, with `follow_up`, continues the last one; or a
                list of questions, which do not see each other and do not become part of the conversation.
            follow_up: the prompt also holds the questions and answers in `history`.
            stream: return an iterator over the pieces of the answer. Read it to its end, or call its `close`.
            batch_size: the largest number of questions of a list that are answered at once.
            options: of `generate`.

        Returns:
            The answer; a list of answers for a list; an `AnswerStream` with `stream`.

        Raises:
            ValueError: the session is closed or still answering, or the question is empty or longer than what is left
                of the context.
            TypeError: an option is unknown.
        """
        check_switches(follow_up=follow_up, stream=stream)
        if not isinstance(question, str):
            if stream:
                raise ValueError("stream=True needs one question, not a list.")
            rows = self.generate(question, follow_up=follow_up, batch_size=batch_size, **options)
            return [self._text(row) for row in rows]
        return self._ask(question, follow_up, stream, options)

    @one_at_a_time
    def _ask(self, question: str, follow_up: bool, stream: bool, options: Mapping[str, Any]) -> Any:
        """`ask` of one question."""
        prompt, config, others = self._begin(question, follow_up, options)
        how = self._how(config, others)
        # Beams need rows of their own, so they leave the kept cache as it is.
        in_place = how.copies == 1 and how.uses_cache
        answers = self.open_answers()
        inputs = answers.inputs([prompt], in_place=True) if in_place else {}
        asked = [*(self.history if follow_up else []), question]

        def generate(**more: Any) -> torch.Tensor:
            every = {**others, **more}
            if in_place:
                return self._sequences(inputs, config, every)[0]
            run = partial(self._sequences, config=config, others=every)
            return cast(torch.Tensor, answers.run([prompt], how.copies, run, how.uses_cache)[0])[0]

        def finish(sequence: torch.Tensor | None, is_whole: bool = True) -> None:
            self._stream = None
            if in_place:
                self._keep(sequence, prompt.ids if is_whole else None)
            if sequence is not None:
                self.history = [*asked, self._text(sequence[len(prompt.ids) :])]

        if stream:
            self._stream = AnswerStream(
                generate,
                self.processor.tokenizer,
                self.turns.within(finish),
                stopping_criteria=others.pop("stopping_criteria", None),
                text_of=lambda sequence: self._text(sequence[len(prompt.ids) :]),
            )
            return self._stream
        try:
            finish(generate())
        except BaseException as error:
            # Ctrl-C may stop a layer of the cache between its keys and its values.
            finish(None, is_whole=isinstance(error, Exception))
            raise
        return self.history[-1]

    @one_at_a_time
    def generate(
        self, questions: Sequence[str], *, follow_up: bool = False, batch_size: int = 16, **options: Any
    ) -> list[torch.Tensor]:
        """The ids of the answers to several questions, as in `ask` of a list; padding may stand at their end."""
        check_switches(follow_up=follow_up)
        check_count("batch_size", batch_size)
        rows: dict[int, torch.Tensor] = {}
        begun = [self._begin(question, follow_up, options) for question in check_questions(questions)]
        prompts, config, others = [prompt for prompt, _, _ in begun], begun[0][1], begun[0][2]
        how, answers = self._how(config, others), self.open_answers()
        # Near the end of the context, answers may be of different lengths.
        alone = how.alone or len({config.max_new_tokens for _, config, _ in begun}) > 1
        for members in question_batches(answers, prompts, 1 if alone else batch_size, how.unpadded):
            run = partial(self._sequences, config=begun[members[0]][1], others=others)
            sequences, length = answers.run([prompts[number] for number in members], how.copies, run, how.uses_cache)
            rows.update(zip(members, sequences[:, length:], strict=True))
        return [rows[number] for number in range(len(prompts))]

    def write(self, question: str, follow_up: bool = False) -> SessionPrompt:
        """The prompt of a question; see `ask`."""
        return self._prompts.write([*(self.history if follow_up else []), check_question(question)])

    def open_answers(self) -> SessionAnswers:
        """What makes the inputs of `generate`.

        Raises:
            ValueError: the session is closed, an answer is still being written, or the model has changed.
        """
        if self._answers is None:
            raise ValueError("This session is closed: open the video again.")
        if self._stream is not None:
            raise ValueError("The session is still answering: read the stream to its end, or call its close().")
        if not self._stamp.fits(self.model):
            raise ValueError(
                "The weights or adapters of the model have changed since the session watched: open it again."
            )
        return self._answers

    def reset(self) -> None:
        """Forget the conversation; the media stay."""
        self.history = []

    def close(self) -> None:
        """Free the memory of the media and of the cache. A second call changes nothing."""
        try:
            if self._stream is not None:
                self._stream.close()
        except Exception as error:
            # Nobody waits for this answer any more.
            warn_caller(f"An answer that was not read to its end has failed: {one_line(error)}")
        finally:
            with self.turns:
                self._answers = self._watched = self._sources = None
                self.history = []

    def __enter__(self) -> "VideoSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(
        self, question: str, follow_up: bool, options: Mapping[str, Any]
    ) -> tuple[SessionPrompt, GenerationConfig, dict[str, Any]]:
        """The prompt, the configuration of `generate`, and the arguments of `generate` that are not part of it."""
        self.open_answers()
        refuse_unknown(options, OF_ASK, "VideoSession.ask")
        config, others = self._configured(merged_options(self.answer_options, options))
        prompt = self.write(question, follow_up)
        self._check_room(prompt.ids, 1)
        end_in_context(config, len(prompt.ids), context_length(self.model.config), options)
        self._check_room(prompt.ids, config.max_new_tokens or 1)
        return prompt, config, others

    def _configured(self, options: Mapping[str, Any]) -> tuple[GenerationConfig, dict[str, Any]]:
        """A configuration of `generate` with these options, and those that are no part of it."""
        options = dict(options)
        config = copy.deepcopy(options.pop("generation_config", None) or self.model.generation_config)
        if config.max_new_tokens is None and config.max_length is None and options.get("max_length") is None:
            config.max_new_tokens = MAX_NEW_TOKENS
        if config.pad_token_id is None:
            config.pad_token_id = self.processor.tokenizer.pad_token_id
        others = config.update(**options)
        if (config.num_return_sequences or 1) > 1:
            raise ValueError("num_return_sequences: a session gives one answer to each question; leave it out.")
        return config, others

    def _how(self, config: GenerationConfig, others: Mapping[str, Any]) -> HowToAnswer:
        """How questions are answered under these options.

        Raises:
            ValueError: an option cannot be used in a session.
        """
        if others.get("assistant_model") is not None:
            raise ValueError(
                "assistant_model has to see the media itself, and a session keeps them for its own model only: use "
                "prompt_lookup_num_tokens, or a call of the pipeline."
            )
        given = {**others, "generation_config": config}
        return how_to_answer(lambda name: option_value(self.model, name, given))

    def _check_room(self, ids: Sequence[int], num_new: int) -> None:
        """Refuse a prompt that is longer than the context of the model, or than a cache of a fixed size."""
        context = context_length(self.model.config)
        media = self.num_media_tokens
        if context is not None and len(ids) >= context:
            what = (
                f"The question has {len(ids) - media} tokens" if len(ids) > media else "There is no room for a question"
            )
            raise ValueError(
                f"{what}, and {max(0, context - media)} of the model's {context} are left behind the media: ask a "
                "shorter question, begin a new conversation, or open the media with fewer frames."
            )
        size = self.open_answers().kept.kept.size
        if size is not None and len(ids) + num_new > size:
            raise ValueError(
                f"The prompt has {len(ids)} tokens and its answer up to {num_new}, but the cache has room for {size}: "
                "ask a shorter question, lower max_new_tokens, or open the session with a larger cache."
            )

    def _sequences(
        self, inputs: Mapping[str, Any], config: GenerationConfig, others: Mapping[str, Any]
    ) -> torch.Tensor:
        outputs = self.model.generate(**inputs, generation_config=config, **others)
        sequences: torch.Tensor = getattr(outputs, "sequences", outputs)
        return sequences

    def _keep(self, sequence: torch.Tensor | None, prompt: Sequence[int] | None) -> None:
        """Note what the kept cache holds after an answer; without one, it holds the prompt at most."""
        if self._answers is None:
            return
        if sequence is not None:
            self._answers.take(sequence)
        elif prompt is not None:
            self._answers.recover(prompt)
        else:
            self._answers.forget()

    def _text(self, ids: torch.Tensor) -> str:
        text: str = self.processor.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()


__all__ = ["MAX_NEW_TOKENS", "VideoSession"]
