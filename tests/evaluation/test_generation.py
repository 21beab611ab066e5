"""Answers do not depend on the batch; batches become smaller when the memory is not enough."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hf_videollm.evaluation.asking import Ask, Asker, Inputs
from hf_videollm.evaluation.generation import Generated, Generator, seed_of
from hf_videollm.evaluation.items import Item, Medium
from hf_videollm.evaluation.prompting import Prompt
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.synthetic.check import ClipQuestion

GREEDY = {"do_sample": False, "max_new_tokens": 6}


def prepared(pipe: Any, clips: Sequence[ClipQuestion], **prompt: Any) -> list[Inputs]:
    asker = Asker(pipe.processor, torch.float32).for_thread()
    rows = []
    for number, clip in enumerate(clips):
        text = clip.question.question
        item = Item(str(number), (Medium(clip.path),), (text,))
        rows.append(asker.inputs(Ask(item, 0, Prompt(text, **{"generate_kwargs": GREEDY, **prompt}))))
    return rows


@pytest.mark.parametrize("name", bundled_checkpoints())
def test_answers_do_not_depend_on_the_batch(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], name: str
) -> None:
    pipe = bundled_pipe(name)
    rows = prepared(pipe, questions[:7])
    assert len({row.row["input_ids"].shape[1] for row in rows}) > 1, "all prompts have one length: nothing is padded"
    alone, together = (Generator(pipe.model, pipe.processor, size).answers(rows) for size in (1, 5))
    assert alone == together
    assert all(result.answer for result in alone)


def test_padding_on_the_right_would_show(bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion]) -> None:
    """A control of the test above."""
    pipe = bundled_pipe("pllava-tiny")
    rows = prepared(pipe, questions[:7])
    expected = Generator(pipe.model, pipe.processor, 1).answers(rows)

    class Wrong:
        tokenizer = pipe.processor.tokenizer

        def collate(self, batch: Any, padding_side: str) -> Any:
            return pipe.processor.collate(batch, padding_side="right")

    assert Generator(pipe.model, Wrong(), 7).answers(rows) != expected


def test_sampled_answers_depend_on_seed_and_question_alone(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion]
) -> None:
    pipe = bundled_pipe("pllava-tiny")
    sampled = {"do_sample": True, "temperature": 5.0, "max_new_tokens": 6}
    rows = prepared(pipe, questions[:4], generate_kwargs=sampled)
    first = Generator(pipe.model, pipe.processor, 4, seed=1).answers(rows)
    torch.rand(3)
    again = Generator(pipe.model, pipe.processor, 1, seed=1).answers(rows[2:])
    assert again == first[2:]
    assert Generator(pipe.model, pipe.processor, 4, seed=2).answers(rows) != first


def test_sampling_leaves_the_random_state(bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion]) -> None:
    pipe = bundled_pipe("pllava-tiny")
    rows = prepared(pipe, questions[:1], generate_kwargs={"do_sample": True, "max_new_tokens": 2})
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    Generator(pipe.model, pipe.processor).answers(rows)
    assert torch.equal(torch.rand(1), expected)


def test_seeds_differ_by_every_part() -> None:
    assert len({seed_of(0, "a", 0), seed_of(1, "a", 0), seed_of(0, "b", 0), seed_of(0, "a", 1)}) == 4
    assert seed_of(0, "a", 0) == seed_of(0, "a", 0)


def test_options_of_the_run_take_the_place_of_the_prompts(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion]
) -> None:
    pipe = bundled_pipe("pllava-tiny")
    rows = prepared(pipe, questions[:1])
    assert questions[0].question.answer == "white triangle"
    short = Generator(pipe.model, pipe.processor, overrides={"max_new_tokens": 1}).answers(rows)[0]
    assert short.text == "white"


def test_answers_are_cut_by_the_rules_of_the_prompt(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion]
) -> None:
    pipe = bundled_pipe("pllava-tiny")
    (row,) = prepared(pipe, questions[:1], stop=("triangle",), return_prefix="(")
    assert Generator(pipe.model, pipe.processor).answers([row]) == [Generated("(white", "white triangle")]


class Crowded:
    """A model whose memory holds few questions, and that refuses one of them."""

    device = torch.device("cpu")
    generation_config = SimpleNamespace(pad_token_id=0)

    def __init__(self, most: int, error: Exception | None = None) -> None:
        self.most, self.sizes = most, list[int]()
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    def generate(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        self.sizes.append(len(input_ids))
        if len(input_ids) > self.most:
            raise self.error
        if (input_ids == 13).any():
            raise ValueError("unlucky")
        return torch.cat([input_ids, input_ids], 1)


class Echo:
    """A processor whose rows are numbers."""

    tokenizer = SimpleNamespace(pad_token_id=0, batch_decode=lambda rows, **_: [str(int(row)) for row in rows])

    def collate(self, rows: Sequence[Any], padding_side: str) -> Any:
        assert padding_side == "left"
        ids = torch.cat([row["input_ids"] for row in rows])

        class Batch(dict[str, torch.Tensor]):
            def to(self, device: Any) -> "Batch":
                return self

        return Batch(input_ids=ids)


def numbers(count: int) -> list[Inputs]:
    item = Item("1", (Medium(Path("x")),), ("Who?",))
    return [Inputs(Ask(item, 0, Prompt("")), {"input_ids": torch.tensor([[n]])}, "", []) for n in range(count)]


@pytest.mark.parametrize(
    "error",
    [
        None,
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        MemoryError(),
    ],
)
def test_the_batch_is_halved_until_the_memory_is_enough(error: Exception | None) -> None:
    model = Crowded(3, error)
    generator = Generator(model, Echo(), 16)
    assert [result.answer for result in generator.answers(numbers(10))] == [str(number) for number in range(10)]
    assert model.sizes == [10, 5, 2, 2, 2, 2, 2]
    # It stays so.
    generator.answers(numbers(2))
    assert model.sizes[-1:] == [2]


def test_a_number_of_the_user_is_kept_or_refused() -> None:
    with pytest.raises(RuntimeError, match=r"not enough for 4 questions at a time: lower batch_size"):
        Generator(Crowded(3), Echo(), 4, shrinks=False).answers(numbers(8))


def test_a_question_that_is_too_large_alone_is_an_error_of_its_own() -> None:
    results = Generator(Crowded(0), Echo(), 4).answers(numbers(2))
    assert [type(result.error) for result in results] == [MemoryError, MemoryError]


def test_a_question_that_the_model_refuses_does_not_spoil_its_batch() -> None:
    results = Generator(Crowded(99), Echo(), 8).answers(numbers(16))
    assert [number for number, result in enumerate(results) if result.error is not None] == [13]
    assert results[12].answer == "12"


def test_other_faults_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="device-side assert"):
        Generator(Crowded(0, RuntimeError("CUDA error: device-side assert triggered")), Echo(), 4).answers(numbers(2))
