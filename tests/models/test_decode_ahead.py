"""Decoding the next sample while the model works changes no answer, and no error, and leaves no thread behind."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from media_corpus import number_picture, write_video
from torch.utils.data import Dataset
from transformers import pipeline

from hf_videollm import MediaNotFound, VideoTextToTextPipeline
from hf_videollm.models.video_llm_pipeline_ahead import Ahead

GREEDY = {"generate_kwargs": {"do_sample": False, "max_new_tokens": 4}}


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint: str) -> VideoTextToTextPipeline:
    return pipeline("video-text-to-text", model=tiny_checkpoint, device="cpu")


def threads_ahead() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "decode ahead"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 20
    while threads_ahead() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads_ahead()


class Samples(Dataset):
    def __init__(self, samples: list[dict[str, Any]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.samples[index]


def samples(clips: list[str], count: int = 5) -> list[dict[str, Any]]:
    return [{"videos": clips[i % len(clips)], "text": f"What moves, {i}?"} for i in range(count)]


def both_ways(pipe: VideoTextToTextPipeline, call: Any) -> list[Any]:
    """The results of a call with decoding ahead, and without."""
    results = []
    for ahead in (True, False):
        pipe.decode_ahead = ahead
        try:
            results.append(call())
        finally:
            pipe.decode_ahead = True
    return results


@pytest.mark.parametrize("form", [list, Samples, iter])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_answers_do_not_depend_on_it(
    pipe: VideoTextToTextPipeline, clips: list[str], form: Any, batch_size: int
) -> None:
    one, other = both_ways(pipe, lambda: list(pipe(form(samples(clips)), batch_size=batch_size, **GREEDY)))
    assert one == other
    assert len(one) == 5
    assert len({str(result) for result in one}) == 5  # control


def test_sampled_answers_do_not_depend_on_it(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    sampling = {"generate_kwargs": {"do_sample": True, "max_new_tokens": 8, "temperature": 5.0}}

    def call(seed: int = 0) -> Any:
        torch.manual_seed(seed)
        return pipe(samples(clips), **sampling)

    one, other = both_ways(pipe, call)
    assert one == other
    assert call(seed=1) != one  # control


def test_the_next_sample_is_decoded_while_the_model_works(
    pipe: VideoTextToTextPipeline, clips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    seen_by_model: list[int] = []
    original, forward = VideoTextToTextPipeline.preprocess, VideoTextToTextPipeline._forward

    def preprocess(self: Any, inputs: Any = None, **options: Any) -> Any:
        begun.append(inputs["text"])
        return original(self, inputs, **options)

    def slow_forward(self: Any, *arguments: Any, **options: Any) -> Any:
        result = forward(self, *arguments, **options)
        for thread in threads_ahead():
            thread.join()
        seen_by_model.append(len(begun))
        return result

    monkeypatch.setattr(VideoTextToTextPipeline, "preprocess", preprocess)
    monkeypatch.setattr(VideoTextToTextPipeline, "_forward", slow_forward)
    ahead, _ = both_ways(pipe, lambda: pipe(samples(clips, 4), **GREEDY))
    assert len(ahead) == 4
    assert seen_by_model[:4] == [2, 3, 4, 4]  # one ahead, never more
    assert [count - 4 for count in seen_by_model[4:]] == [1, 2, 3, 4]  # control: without it


def test_errors_come_at_their_sample(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    asked = samples(clips, 4)
    asked[1]["videos"] = "missing.mp4"

    def call() -> list[str]:
        found = []
        results = iter(pipe(Samples(asked), **GREEDY))
        for _ in asked:
            try:
                found.append(next(results)[0]["input_text"])
            except MediaNotFound as error:
                found.append(str(error))
        with pytest.raises(StopIteration):
            next(results)
        return found

    one, other = both_ways(pipe, call)
    assert one == other
    assert one[0] == asked[0]["text"]
    assert one[1].startswith("missing.mp4: no such file")
    assert one[2:] == [asked[2]["text"], asked[3]["text"]]
    with pytest.raises(MediaNotFound):
        pipe(asked, **GREEDY)


def test_an_error_of_the_samples_themselves_comes_at_its_place(pipe: VideoTextToTextPipeline, clips: list[str]) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from samples(clips, 2)
        raise RuntimeError("no more samples")

    def call() -> list[str]:
        found = []
        results = iter(pipe(broken(), **GREEDY))
        for _ in range(2):
            found.append(next(results)[0]["input_text"])
        with pytest.raises(RuntimeError, match="no more samples"):
            next(results)
        return found

    one, other = both_ways(pipe, call)
    assert one == other == [sample["text"] for sample in samples(clips, 2)]


def test_warnings_name_the_line_of_the_user(pipe: VideoTextToTextPipeline, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", [number_picture(i) for i in range(40)]).read_bytes()
    for number in range(2):
        (tmp_path / f"cut{number}.mkv").write_bytes(whole[: len(whole) * 3 // 4])
    asked = [{"videos": str(tmp_path / f"cut{number}.mkv"), "text": "What?"} for number in range(2)]
    with pytest.warns(UserWarning, match="damaged") as caught:
        pipe(asked, on_decode_error="truncate", **GREEDY)
    of_media = [warning for warning in caught if "damaged" in str(warning.message)]
    assert {Path(warning.filename).name for warning in of_media} == {Path(__file__).name}
    assert len({str(warning.message).partition(":")[0] for warning in of_media}) == 2


# --- the iterator by itself ------------------------------------------------------------------------------------------


def test_who_stops_early_waits_for_nothing() -> None:
    release, made = threading.Event(), []

    def slow(batch: list[int]) -> int:
        made.append(batch[0])
        if batch[0]:
            release.wait(20)
        return batch[0]

    results = Ahead(range(100), slow, 1)
    assert next(results) == 0
    del results
    release.set()
    for thread in threads_ahead():
        thread.join()
    assert made == [0, 1]


def test_ctrl_c_ends_at_once() -> None:
    # A shell that starts a run in the background lets it ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    release = threading.Event()
    results = Ahead([1], lambda batch: release.wait(60), 1)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            next(results)
        assert time.monotonic() - began < 30
        assert threads_ahead()[0].daemon  # it does not keep the process alive
    finally:
        timer.join()
        release.set()
        signal.signal(signal.SIGINT, before)


def test_items_are_read_by_the_caller() -> None:
    """Some iterators, such as those of databases, may be used in one thread only."""
    readers: set[int] = set()

    def items() -> Iterator[int]:
        for number in range(5):
            readers.add(threading.get_ident())
            yield number

    workers: set[int] = set()

    def work(batch: list[int]) -> list[int]:
        workers.add(threading.get_ident())
        return batch

    assert list(Ahead(items(), work, 2)) == [[0, 1], [2, 3], [4]]
    assert readers == {threading.get_ident()}
    assert threading.get_ident() not in workers  # control
