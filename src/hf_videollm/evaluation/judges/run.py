"""Judges many items: in parallel, with every reply kept, and with failures counted instead of lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from .backends.protocol import Judge
from .cache import ReplyCache, reply_key
from .errors import JudgeStopError, NoReplyError
from .items import JudgeItem, Judgement
from .judge_text import Value
from .parsing import UnreadableReplyError, read_reply
from .policies import JudgePolicy

__all__ = ["judge_items"]

Progress = Callable[[int, int, int], None]
# So many items in a row without any reply: nobody is there, and thousands more would be waited for in vain.
MOST_SILENT_ITEMS = 20


def judge_items(
    items: Sequence[JudgeItem],
    policy: JudgePolicy,
    judge: Judge,
    cache: ReplyCache | None = None,
    concurrency: int = 8,
    progress: Progress | None = None,
) -> list[Judgement]:
    """What a judge says of each item.

    Items whose messages are equal are judged once. So the result does not depend on the number of threads.

    Args:
        items: what to judge; ids are unique.
        policy: how to ask, and how to read replies.
        judge: who is asked.
        cache: keeps replies; those that it has are not asked for again. A run that was stopped goes on by being
            called again with the same cache.
        concurrency: threads that ask at the same time.
        progress: called after each item with the numbers of items done, of all items, and of failures.

    Returns:
        One judgement for each item, in their order.

    Raises:
        ValueError: two items have the same id, a field is missing or unknown, or `concurrency` is below 1.
        JudgeStopError: no further item can be judged. What was judged until then is in its `judgements`.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency={concurrency} must be at least 1.")
    _check_items(items)
    run = _Run(policy, judge, cache)
    groups: dict[str, list[int]] = {}
    for position, item in enumerate(items):
        groups.setdefault(run.key(item, item.values), []).append(position)
    results: list[Judgement | None] = [None] * len(items)
    tally = _Tally(len(items), progress)
    pool = ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="judge")
    futures: dict[Future[Judgement], list[int]] = {}
    try:
        for positions in groups.values():
            futures[pool.submit(run.judge_one, items[positions[0]])] = positions
        for future in as_completed(futures):
            _keep(future.result(), futures[future], results)
            tally.count(future.result(), len(futures[future]))
    except BaseException as error:
        # Ctrl-C is one, too: requests that are under way end, and no other begins.
        run.stopped.set()
        judge.interrupt()
        pool.shutdown(wait=True, cancel_futures=True)
        if not isinstance(error, JudgeStopError):
            raise
        for future, positions in futures.items():
            if not future.cancelled() and future.exception() is None:
                _keep(future.result(), positions, results)
        raise _with_results(error, results, cache) from error
    pool.shutdown(wait=True)
    return [result for result in results if result is not None]


def _check_items(items: Sequence[JudgeItem]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ValueError(f"Two items to judge have the id {item.id!r}: give each question an id of its own.")
        seen.add(item.id)
        item.text.check(item.values, f"item {item.id!r}: ")


def _keep(judgement: Judgement, positions: Sequence[int], results: list[Judgement | None]) -> None:
    for position in positions:
        results[position] = judgement


def _with_results(
    error: JudgeStopError, results: Sequence[Judgement | None], cache: ReplyCache | None
) -> JudgeStopError:
    """The same error that also says what is done, and where it is kept."""
    done = sum(result is not None for result in results)
    kept = (
        f"{cache.path} keeps the replies, and the same run goes on from there"
        if cache is not None
        else "pass a cache (`judge_cache`), so that replies are kept for the next run"
    )
    told = type(error)(f"{str(error).rstrip('.')}. {done} of {len(results)} items are judged; {kept}.")
    told.judgements = list(results)
    return told


@dataclass
class _Tally:
    """Counts items, and stops a run in which nobody answers."""

    total: int
    progress: Progress | None
    done: int = 0
    failed: int = 0
    silent: int = 0

    def count(self, judgement: Judgement, number: int) -> None:
        self.done += number
        self.failed += number * judgement.failed
        got_none = judgement.failed and judgement.reply is None
        self.silent = self.silent + 1 if got_none else 0
        if self.progress is not None:
            self.progress(self.done, self.total, self.failed)
        if self.silent >= MOST_SILENT_ITEMS and self.done < self.total:
            raise JudgeStopError(
                f"There was no reply to {self.silent} items in a row; the last time: {judgement.error}."
            )


@dataclass
class _Run:
    """One run: who is asked, and how."""

    policy: JudgePolicy
    judge: Judge
    cache: ReplyCache | None
    stopped: threading.Event = field(default_factory=threading.Event)

    def key(self, item: JudgeItem, values: dict[str, Value] | Any) -> str:
        """Key of the replies to an item, or to one with other values."""
        messages = item.text.render(**values)
        return reply_key(self.judge.kind, self.judge.model, self.policy.name, messages, self.policy.sampling())

    def judge_one(self, item: JudgeItem) -> Judgement:
        """Ask until a reply can be read, or the attempts are used up."""
        if item.text.zero_when_empty and item.is_empty:
            return Judgement(None, 0.0)
        reply, error = None, ""
        asked: dict[str, int] = {}
        in_vain = self.judge.repeats_itself(self.policy.temperature) and self.policy.short_prediction is None
        for attempt in range(1, 2 if in_vain else self.policy.attempts + 1):
            values = self._values(item, attempt)
            try:
                reply = self._reply(item, values, asked)
            except NoReplyError as failure:
                return Judgement(None, None, True, str(failure), reply, attempt)
            try:
                reading = read_reply(reply, item.text, self.policy.parse)
            except UnreadableReplyError as failure:
                error = f"{failure}: {_shortened(reply)}" if reply.strip() else str(failure)
                if self.policy.ask_again_when == "empty" and reply.strip():
                    break
            else:
                return Judgement(reading.pred, reading.score, False, None, reply, attempt, reading.choice)
        return Judgement(None, None, True, error, reply, attempt)

    def _values(self, item: JudgeItem, attempt: int) -> dict[str, Value]:
        """The values of this attempt; VideoLLaMA2's policy shortens predictions in every second one."""
        values, length = dict(item.values), self.policy.short_prediction
        if length is not None and attempt % 2 == 0 and item.text.reply == "verdict":
            values |= {name: str(values[name])[:length] for name in item.text.predictions}
        return values

    def _reply(self, item: JudgeItem, values: dict[str, Value], asked: dict[str, int]) -> str:
        """The next reply to these messages: the cache's if it has one, else the judge's."""
        key = self.key(item, values)
        number = asked[key] = asked.get(key, 0) + 1
        kept = self.cache.replies(key) if self.cache is not None else []
        if len(kept) >= number:
            return kept[number - 1]
        if self.stopped.is_set():
            raise JudgeStopError("The run was stopped.")
        reply = self.judge.complete(
            item.text.render(**values),
            **self.policy.sampling(),
            item=JudgeItem(item.id, item.text, values, item.options),
            attempt=number,
        )
        if self.cache is not None:
            self.cache.add(key, reply, model=self.judge.model, policy=self.policy.name, text=item.text.name)
        return reply


def _shortened(text: str, length: int = 120) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[:length] + "..."
