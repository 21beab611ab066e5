"""Questions on one video share its encoding when the model writes the answers, and the answers do not change."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from PIL import Image

from hf_videollm.evaluation.asking import Ask, Asker, Inputs
from hf_videollm.evaluation.encoded_rows import EncodedRows
from hf_videollm.evaluation.generation import Generator
from hf_videollm.evaluation.items import Item, Medium
from hf_videollm.evaluation.prompting import Prompt
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.models.video_llm_watched_media import MediaMemory
from hf_videollm.synthetic.check import ClipQuestion

GREEDY = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}
TEXTS = ("What color is the shape?", "Which shape is it, and where does it move?", "What color?")


def prepared(pipe: Any, media: Sequence[tuple[Medium, ...]]) -> list[Inputs]:
    """All questions about the first media, then all about the next."""
    asker = Asker(pipe.processor, torch.float32).for_thread()
    items = [Item(f"{number}-{text}", of_item, (text,)) for number, of_item in enumerate(media) for text in TEXTS]
    return [asker.inputs(Ask(item, 0, Prompt(item.question, generate_kwargs=GREEDY))) for item in items]


@contextmanager
def counted(pipe: Any) -> Iterator[list[int]]:
    """Numbers of frames of the calls of the vision tower."""
    tower = next(module for name, module in pipe.model.named_modules() if name.endswith("vision_tower"))
    calls: list[int] = []
    hook = tower.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(len(args[0] if args else kwargs["pixel_values"])), with_kwargs=True
    )
    try:
        yield calls
    finally:
        hook.remove()


@pytest.mark.parametrize("name", bundled_checkpoints())
def test_answers_are_those_of_questions_that_share_nothing(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], tmp_path: Any, name: str
) -> None:
    """In batches with one and with several videos, and with an image in the place of a video."""
    pipe = bundled_pipe(name)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    videos = [Medium(clip.path) for clip in questions[:3]]
    media = [(videos[0],), (videos[1], videos[2]), (Medium(tmp_path / "red.png", type="image"),)]
    rows = prepared(pipe, media)
    with counted(pipe) as single:
        expected = Generator(pipe.model, pipe.processor, 1).answers(rows)
    assert all(result.error is None for result in expected), expected
    assert len({result.text for result in expected}) > 1
    for size in (1, 4, 9):
        encoded = EncodedRows(pipe.model, pipe.processor)
        with counted(pipe) as shared:
            assert Generator(pipe.model, pipe.processor, size, encoded=encoded).answers(rows) == expected
        if not pipe.model.reads_questions:  # the images of LinVT are encoded for each question
            assert sum(shared) * len(TEXTS) == sum(single)
            assert encoded.num_encoded == 3


def test_media_that_were_dropped_are_encoded_again(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion]
) -> None:
    pipe = bundled_pipe("pllava-tiny")
    rows = prepared(pipe, [(Medium(clip.path),) for clip in questions[:2]])
    mixed = [rows[number] for number in (0, 3, 1, 4)]
    expected = Generator(pipe.model, pipe.processor, 1).answers(mixed)
    for most_bytes, count in ((1, 4), (1 << 30, 2)):
        encoded = EncodedRows(pipe.model, pipe.processor, memory=MediaMemory(most_bytes))
        assert Generator(pipe.model, pipe.processor, 1, encoded=encoded).answers(mixed) == expected
        assert encoded.num_encoded == count
