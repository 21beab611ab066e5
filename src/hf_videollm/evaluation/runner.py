"""Runs a benchmark with a model: answers, then scores, then a result; a run that was stopped goes on where it was.

    items -> share of this process, less what has a record -> `answering.Answering` -> `records.RecordFile`
    records of all processes -> `scoring`, `totals` -> `result.write_result`

Whichever process answers the last item scores all of them. No process waits for another.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..models.video_llm_watched_media import MediaMemory
from .answering import Answering
from .asking import Asker, rendered_prompt
from .changed_items import check_items, with_digest
from .data_files import DataFiles
from .engines import make_engine
from .items import Item
from .partial_runs import partial_because, refuse_smaller
from .provenance import command_line, machine, model_facts, now
from .ranks import Ranks
from .records import Record, RecordFile, merge, numbered, read_records, turn_to_merge
from .result import RESULT, Run, write_result, write_run
from .run_options import RunOptions, answer_settings, prompt_style
from .scoring import Scoring
from .settings import keep_settings
from .task import Task

__all__ = ["Runner"]


@dataclass
class Runner:
    """A model that is evaluated, and how.

    Attributes:
        pipe: from `load_pipeline`.
        source: what the user calls the model.
        options: of the run.
        ranks: place of this process among several.
        on_progress: called with the task and `Answering` after each batch.
        memory: encoded media that further runs with this object use again; each run has its own when None.

    Example:
        >>> runner = Runner(load_pipeline("./pllava-7b"), "./pllava-7b", RunOptions(limit=100))   # doctest: +SKIP
        >>> runner.run(task, DataFiles(Path("data/mvbench")), Path("runs/mvbench"))               # doctest: +SKIP
    """

    pipe: Any
    source: str
    options: RunOptions = field(default_factory=RunOptions)
    ranks: Ranks = field(default_factory=Ranks)
    on_progress: Callable[[Task, Answering], None] | None = None
    memory: MediaMemory | None = None

    def run(
        self,
        task: Task,
        data: DataFiles,
        folder: Path,
        scoring: Scoring | None = None,
        judge: Mapping[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """Answer and score a benchmark.

        Args:
            task: the benchmark.
            data: its files.
            folder: where records and result are written. What a stopped run left there is continued.
            scoring: how answers are scored; by the task's own rules when None.
            judge: of `judges.backends.protocol.describe_judge`, for the result.

        Returns:
            What `result.json` holds; None if other processes have not finished their share yet.

        Raises:
            DataError: the files of the benchmark are missing or not as they should be.
            SettingsChangedError: the folder holds a run with other settings.
            SmallerRunError: it holds the result of more items than `limit`.
            ItemChangedError: it holds answers to questions that have changed since.
            TooManyErrors: see `RunOptions.max_errors`.
            ValueError: an option does not fit the task or the model.
        """
        style = prompt_style(task, self.options)
        scoring = scoring or Scoring(task, style=style, seed=self.options.seed)
        # Wrong names of rules are told before hours of work.
        scoring.facts()
        items = list(task.items(data, self.options.limit))
        self._check_fit(task, items[0])
        model = model_facts(self.pipe, self.source)
        settings = answer_settings(task, self.options, model, items[0])
        keep_settings(folder, settings)
        refuse_smaller(folder / RESULT, len(items), self.options.limit)
        self._answer(task, style, items, folder)
        partial = partial_because(task, data, items, self.options.limit)
        return self._finish(items, folder, scoring, settings, model, judge, partial)

    def _answer(self, task: Task, style: str, items: Sequence[Item], folder: Path) -> None:
        """Make a record for each item of this process that has none."""
        with RecordFile(folder, self.ranks) as file:
            done = read_records(folder)
            changed = check_items(items, done, folder)
            share = self.ranks.share(items)
            waiting = [item for item in share if item.id in changed or self._is_waiting(done.get(item.id))]
            if not waiting:
                return
            self.pipe.model.eval()
            answering = Answering(
                self._asker(),
                make_engine(self.pipe.model, self.pipe.processor, self.options, self.memory),
                task.prompt_rule(style),
                workers=self.options.workers,
                max_errors=self.options.max_errors,
                on_progress=None if self.on_progress is None else lambda state: self._tell(task, state),
            )
            run = self._begin(folder, answering)
            try:
                by_id = {item.id: item for item in waiting}
                for records in answering.records(waiting):
                    file.append(
                        with_digest(numbered(record, done.get(record["id"])), by_id[record["id"]]) for record in records
                    )
            finally:
                self._end(folder, run, answering)

    def _tell(self, task: Task, state: Answering) -> None:
        if self.on_progress is not None:
            self.on_progress(task, state)

    def _is_waiting(self, record: Record | None) -> bool:
        return record is None or (self.options.retry_errors and "error" in record)

    def _begin(self, folder: Path, answering: Answering) -> Run:
        """Write down that this process works on the run, so that a killed one is known, too."""
        ranks, engine = self.ranks, answering.engine.facts()
        run = Run(uuid.uuid4().hex[:12], now(), ranks.rank, ranks.world_size, engine, command_line(), machine())
        write_run(folder, run)
        return run

    def _end(self, folder: Path, run: Run, answering: Answering) -> None:
        ended = replace(
            run,
            engine=answering.engine.facts(),
            num_items=answering.num_done,
            seconds=round(answering.seconds, 3),
            waited=round(answering.waited, 3),
            ended=now(),
        )
        write_run(folder, ended)

    def _finish(
        self,
        items: Sequence[Item],
        folder: Path,
        scoring: Scoring,
        settings: Mapping[str, Any],
        model: Mapping[str, Any],
        judge: Mapping[str, Any] | None,
        partial: str | None,
    ) -> dict[str, Any] | None:
        """Score everything, if no other process still has items to answer and none has done it already."""
        with turn_to_merge(folder):
            ids = [item.id for item in items]
            records = read_records(folder)
            if any(id not in records for id in ids):
                return None
            if not RecordFile(folder, self.ranks).path.exists():
                # The process that answered the last item has merged the files of all, this one's too.
                return None
            records = merge(folder, ids)
            first = self._first_prompt(scoring, items[0])
            return write_result(folder, scoring, items, records, settings, model, first, judge, partial)

    def _asker(self) -> Asker:
        options = self.options
        return Asker(self.pipe.processor, self.pipe.model.dtype, options.processor_options, options.frame_cache)

    def _first_prompt(self, scoring: Scoring, item: Item) -> str:
        """The prompt of the first item, for the result; without subtitles if its video cannot be read."""
        from ..models.errors import MediaError

        # The records tell what is wrong.
        with suppress(MediaError, ValueError):
            item = self._asker().as_seen(item)
        prompt = scoring.task.prompt_rule(scoring.style)(item, item.questions[0])
        # The text is the same for the whole video, and a part may lie outside of it.
        whole = replace(item, media=tuple(replace(medium, start=None, end=None) for medium in item.media))
        return rendered_prompt(self.pipe.processor, prompt, prompt.messages(whole))

    def _check_fit(self, task: Task, first: Item) -> None:
        """Refuse what would fail for every single item.

        Raises:
            ValueError: the benchmark is about sounds and the model takes none, or has no options to compare.
        """
        if any(medium.type == "audio" for medium in first.media) and not self.pipe.takes_audio:
            raise ValueError(f"{task.title} is about sounds, and {self.source} cannot hear: choose another model.")
        if self.options.mode == "likelihood" and not first.options:
            raise ValueError(f"{task.title} has no options whose likelihood could be compared: leave out the mode.")
