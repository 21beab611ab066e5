"""Answers requests of lmms-eval with a model of this package; `lmms_eval.py` puts lmms-eval's class before it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, Literal

from .lmms_eval_messages import turns_of_messages, user_turn
from .lmms_eval_requests import ChatPrompt, Question, Questions, Request, generate_options, read_request

__all__ = ["LmmsEvalModel"]

logger = logging.getLogger(__name__)

OnError = Literal["raise", "empty"]


class LmmsEvalModel:
    """The interface of lmms-eval's models, with chat requests and with simple ones.

    `evaluate`'s own machinery answers: videos are decoded while the model works, prompts are padded on the left, the
    options of a question share one run over its video.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str = "auto",
        lora_alpha: float | None = None,
        trust_remote_code: bool = False,
        system_prompt: str | None = None,
        workers: int = 1,
        seed: int = 0,
        on_error: OnError = "raise",
        **media_options: Any,
    ) -> None:
        """Args:
        pretrained: folder, Hub id or name of a bundled checkpoint.
        batch_size: questions at a time; "auto" begins with `max_batch_size` and halves it when the memory is not
            enough.
        max_batch_size: see `batch_size`.
        device: a torch device; each process gets a GPU of its own by default.
        dtype: of the weights; that of the checkpoint by default.
        lora_alpha: strength of the checkpoint's LoRA.
        trust_remote_code: run the model code of the repository.
        system_prompt: takes the place of the tasks' own.
        workers: threads that decode.
        seed: of sampled answers.
        on_error: what a question without answer (a damaged video) does: "raise" stops the run, "empty" counts as an
            empty answer and is told.
        **media_options: options of the processor: `num_frames`, `fps`, `max_frames`, `use_audio_in_video`,
            `missing_audio`, `num_tokens_per_frame`, `sampling`, ...

        Raises:
            TypeError: an option is unknown.
            ValueError: an option has an impossible value.
        """
        super().__init__()
        from ..inference import load_pipeline
        from ..known_models import find_model
        from ..models.video_llm_option_names import did_you_mean, refuse_unknown
        from .ranks import Ranks
        from .run_options import RunOptions

        if on_error not in ("raise", "empty"):
            raise ValueError(f"There is no on_error={on_error!r}: {did_you_mean(on_error, ('raise', 'empty'))}")
        ranks = Ranks.of_environment()
        self._rank, self._world_size = ranks.rank, ranks.world_size
        self.on_error = on_error
        self.system_prompt = system_prompt
        self.pipe = load_pipeline(
            find_model(pretrained),
            dtype=dtype,
            device=ranks.device(device),
            lora_alpha=lora_alpha,
            trust_remote_code=trust_remote_code,
        )
        self.pipe.model.eval()
        refuse_unknown(media_options, self.pipe.media_options(), "hf_videollm")
        is_auto = str(batch_size).startswith("auto")
        if not is_auto and not str(batch_size).isdigit():
            raise ValueError(f"batch_size is a number or auto, not {batch_size!r}.")
        self.options = RunOptions(
            batch_size=None if is_auto else int(batch_size or 1),
            workers=workers,
            processor_options=media_options,
            seed=seed,
        )
        self.max_batch_size = max_batch_size
        self._told: set[str] = set()

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self.pipe.model.device

    @property
    def batch_size(self) -> int | str:
        """Questions at a time."""
        return self.options.batch_size or "auto"

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """What the model writes, one text for each request.

        Raises:
            RuntimeError: a question has no answer and `on_error` is "raise".
        """
        read = [read_request(request.args) for request in requests]
        answers = self._answers(Questions(read, self._first_question))
        for request, answer in zip(read, answers, strict=True):
            self._note("generate_until", request, answer)
        return answers

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """What the model writes in all rounds, one list for each request. The task decides when a conversation ends.

        Raises:
            RuntimeError: as `generate_until`.
        """
        read = [read_request(request.args) for request in requests]
        results: list[list[str]] = [[] for _ in read]
        told: list[Any] = [None] * len(read)
        first = Questions(read, self._first_question)
        open_numbers: list[int] = list(range(len(read)))
        questions: Sequence[Question] = first
        round_index = 0
        while open_numbers:
            for number, answer in zip(open_numbers, self._answers(questions), strict=True):
                results[number].append(answer)
            round_index += 1
            following: dict[int, Question] = {}
            for number in open_numbers:
                name = f"{first.names[number]}@{round_index}"
                question, results[number], told[number] = self._next_question(
                    read[number], name, round_index, results[number], told[number]
                )
                if question is not None:
                    following[number] = question
            open_numbers, questions = list(following), list(following.values())
        for request, outputs in zip(read, results, strict=True):
            self._note("generate_until_multi_round", request, outputs)
        return results

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """For each request the mean loss of its continuation, and whether the model would write it itself.

        The number is a loss, not a likelihood: lmms-eval takes the option with the smallest one. lmms-eval sends such
        requests to simple models only, so it has to be told `--force_simple`.
        """
        from .engines import make_engine
        from .likelihood import continuations
        from .prefetch import Prefetch

        read = [read_request(request.args) for request in requests]
        groups = [list(group) for _, group in groupby(read, key=lambda request: request.key)]
        ranker = make_engine(self.pipe.model, self.pipe.processor, _by_likelihood(self.options)).ranker  # type: ignore[attr-defined]
        results: list[tuple[float, bool]] = []
        prepare = _Preparing(self, lambda group: self._first_question(group[0], _name(group[0])))
        for group, inputs in self._shown(Prefetch(groups, prepare, 2, self.options.workers), len(groups)):
            texts = [self._continuation(request) for request in group]
            for tokens in ranker.token_facts(inputs, continuations(self.pipe.processor, inputs, texts)):
                loss = -sum(token.log_probability for token in tokens) / len(tokens)
                results.append((loss, all(token.is_likeliest for token in tokens)))
        return results

    def clean(self) -> None:
        """Let go of the model: lmms-eval may load a judge."""
        del self.pipe
        super().clean()  # type: ignore[misc]

    def _answers(self, questions: Sequence[Question]) -> list[str]:
        """Answers in the order of the questions."""
        from .answering import Answering
        from .asking import Asker
        from .engines import make_engine

        engine = make_engine(self.pipe.model, self.pipe.processor, self.options)
        if self.options.batch_size is None and self.max_batch_size is not None:
            engine.generator.batch_size = self.max_batch_size  # type: ignore[attr-defined]
        answering = Answering(
            Asker(self.pipe.processor, self.pipe.model.dtype, self.options.processor_options),
            engine,
            lambda question, _: question.prompt,  # type: ignore[attr-defined]
            workers=self.options.workers,
        )
        answers: list[str] = []
        records = (record for batch in answering.records(questions) for record in batch)
        for record in self._shown(records, len(questions)):
            answers.append(record["answers"][0] if "error" not in record else self._without_answer(record))
        return answers

    def _without_answer(self, record: dict[str, Any]) -> str:
        text = f"{record['id']} has no answer: {record['error']['type']}: {record['error']['message']}"
        if self.on_error == "raise":
            raise RuntimeError(f"{text} Pass on_error=empty to count such questions as empty answers.")
        logger.warning("%s It counts as an empty answer.", text)
        return ""

    def _first_question(self, request: Request, name: str) -> Question:
        document = self._document(request)
        if request.messages is not None:
            turns = turns_of_messages(request.messages(document), self.system_prompt)
        else:
            visuals = request.visual(document) if request.visual is not None else None
            turns = user_turn(visuals, request.context, self.system_prompt)
        return self._question(request, name, turns)

    def _next_question(
        self, request: Request, name: str, round_index: int, outputs: list[str], told: Any
    ) -> tuple[Question | None, list[str], Any]:
        """The question of the next round, None at the end; the outputs so far; and what the task tells itself."""
        document = self._document(request)
        said = {"round_idx": round_index, "previous_output": outputs, "previous_round_info": told}
        if request.messages is not None:
            messages, is_over, outputs, told = request.messages(document, **said)
            turns = None if is_over else turns_of_messages(messages, self.system_prompt)
        elif request.text is not None:
            visuals, text, is_over, outputs, told = request.text(document, **said)
            turns = None if is_over else user_turn(visuals, text, self.system_prompt)
        else:
            raise ValueError(f"{request.task} sends no function that gives the question of the next round.")
        return (None if turns is None else self._question(request, name, turns)), list(outputs), told

    def _question(self, request: Request, name: str, turns: Any) -> Question:
        from ..models.video_llm_generation_options import GENERATE_OPTIONS

        options, stop, ignored = generate_options(request.gen_kwargs, GENERATE_OPTIONS)
        for option in sorted(ignored - self._told):
            self._told.add(option)
            logger.warning("%s: generation_kwargs holds %r, which is no option of generate.", request.task, option)
        return Question.of(name, turns, options, stop)

    def _document(self, request: Request) -> Any:
        # lmms-eval puts the datasets there.
        return self.task_dict[request.task][request.split][request.doc_id]  # type: ignore[attr-defined]

    def _continuation(self, request: Request) -> str:
        text = request.continuation
        if callable(text):
            text = text(self._document(request))
        # The chat template writes the blank before an answer, or none.
        return str(text).strip()

    def _note(self, kind: str, request: Request, answer: Any) -> None:
        self.cache_hook.add_partial(kind, (request.context, dict(request.gen_kwargs)), answer)  # type: ignore[attr-defined]

    def _shown(self, iterable: Any, total: int) -> Iterator[Any]:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]

        yield from tqdm(iterable, total=total, disable=self._rank != 0, desc="hf_videollm")


class _Preparing:
    """Makes the inputs of questions in threads, each with a processor of its own."""

    def __init__(self, model: LmmsEvalModel, question: Callable[[Any], Question]) -> None:
        import threading

        from .asking import Asker

        self._asker = Asker(model.pipe.processor, model.pipe.model.dtype, model.options.processor_options)
        self._question = question
        self._local = threading.local()

    def __call__(self, group: Any) -> Any:
        from .asking import Ask

        if not hasattr(self._local, "asker"):
            self._local.asker = self._asker.for_thread()
        question = self._question(group)
        prompt: ChatPrompt = question.prompt
        return self._local.asker.inputs(Ask(question, 0, prompt))


def _by_likelihood(options: Any) -> Any:
    from dataclasses import replace

    return replace(options, mode="likelihood")


def _name(request: Request) -> str:
    return f"{request.task}/{request.split}/{request.doc_id}"
