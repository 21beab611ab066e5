"""The model gets what the item says, and the records say which frames it saw."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hf_videollm.evaluation.asking import Ask, Asker, Inputs
from hf_videollm.evaluation.items import Item, Medium
from hf_videollm.evaluation.prompting import Prompt
from hf_videollm.known_models import bundled_checkpoints
from hf_videollm.models.errors import MediaNotFound
from hf_videollm.synthetic.check import ClipQuestion

every_checkpoint = pytest.mark.parametrize("name", bundled_checkpoints())


def ask(*media: Medium, text: str = "What color is the shape?", **prompt: Any) -> Ask:
    return Ask(Item("1", media, (text,)), 0, Prompt(text, **prompt))


@every_checkpoint
def test_inputs_are_those_of_the_processor(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], name: str
) -> None:
    processor = bundled_pipe(name).processor
    question = ask(Medium(questions[0].path))
    found = Asker(processor, torch.float32).for_thread().inputs(question)
    expected = processor.apply_chat_template(
        question.prompt.messages(question.item),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert set(found.row) == set(expected)
    assert all(torch.equal(found.row[key], expected[key]) for key in expected)
    assert found.rendered.count("<video>") == 1
    assert question.prompt.text in found.rendered


@every_checkpoint
def test_exact_frames_are_recorded(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], name: str
) -> None:
    pipe = bundled_pipe(name)
    path = questions[0].path
    asker = Asker(pipe.processor, torch.float32, {"num_frames": 4}).for_thread()
    (fact,) = asker.inputs(ask(Medium(path, start=0.5, end=1.5))).media
    assert (fact["path"], fact["start"], fact["end"], fact["fps"]) == (str(path), 0.5, 1.5, 8.0)
    assert len(fact["frames"]) == 4
    assert all(4 <= frame <= 12 for frame in fact["frames"])
    # The control: without a part, frames come from the whole clip.
    (whole,) = asker.inputs(ask(Medium(path))).media
    assert max(whole["frames"]) > 12


def test_frames_of_a_folder_are_numbered_in_the_folder(bundled_pipe: Callable[[str], Any], tmp_path: Path) -> None:
    for number in range(1, 101):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number:05d}.png")
    asker = Asker(bundled_pipe("pllava-tiny").processor, torch.float32, {"num_frames": 4}).for_thread()
    inputs = asker.inputs(ask(Medium(tmp_path, start=1.0, end=3.0, fps=25.0)))
    # PLLaVA's golden value is 31, 43, 56, 69 in names that are counted from 1.
    assert inputs.media[0]["frames"] == [30, 42, 55, 68]
    by_hand = asker.inputs(ask(Medium(tmp_path)))
    assert by_hand.media[0]["frames"] == [12, 37, 62, 86]
    assert not torch.equal(inputs.row["pixel_values_videos"], by_hand.row["pixel_values_videos"])


def test_a_folder_with_a_rate_has_a_clock(bundled_pipe: Callable[[str], Any], tmp_path: Path) -> None:
    """IVA takes one frame a second: of 12 frames at 3 a second it takes four, without a rate all of them."""
    for number in range(12):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
    asker = Asker(bundled_pipe("iva-tiny").processor, torch.float32).for_thread()
    assert len(asker.inputs(ask(Medium(tmp_path, fps=3.0))).media[0]["frames"]) == 4
    assert len(asker.inputs(ask(Medium(tmp_path))).media[0]["frames"]) == 12
    assert asker.inputs(ask(Medium(tmp_path, start=2.0, end=4.0, fps=3.0))).media[0]["frames"] == [6, 10]


@pytest.mark.parametrize(("end", "ends"), [(1.5, None), (2.55, None), (9.0, 2.5)])
def test_a_video_that_ends_too_early_is_noted(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], end: float, ends: float | None
) -> None:
    """The clip has 20 frames at 8 a second; a part that ends a fraction of a frame later is rounding."""
    asker = Asker(bundled_pipe("pllava-tiny").processor, torch.float32).for_thread()
    (fact,) = asker.inputs(ask(Medium(questions[0].path, start=0.5, end=end))).media
    assert fact.get("ends") == ends


def test_a_folder_that_ends_too_early_is_noted(bundled_pipe: Callable[[str], Any], tmp_path: Path) -> None:
    for number in range(12):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
    asker = Asker(bundled_pipe("pllava-tiny").processor, torch.float32).for_thread()
    facts = [asker.inputs(ask(Medium(tmp_path, start=2.0, end=end, fps=3.0))).media[0] for end in (4.0, 6.0)]
    assert [fact.get("ends") for fact in facts] == [None, 4.0]


def test_several_questions_on_one_video_decode_it_once(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion]
) -> None:
    processor = copy.deepcopy(bundled_pipe("pllava-tiny").processor)
    decoded: list[str] = []
    decode = processor.video_processor.decode

    def counted(source: Any, *args: Any, **options: Any) -> Any:
        decoded.append(source)
        return decode(source, *args, **options)

    processor.video_processor.decode = counted
    asker = Asker(processor, torch.float32).for_thread()
    first, other = Medium(questions[0].path), Medium(questions[1].path)
    rows = [asker.inputs(ask(medium, text=text)).row for medium in (first, other) for text in ("Who?", "What?")]
    assert decoded == [str(first.path), str(other.path)]
    assert torch.equal(rows[0]["pixel_values_videos"], rows[1]["pixel_values_videos"])
    # Another part of the same file is another video.
    asker.inputs(ask(Medium(other.path, start=1.0)))
    assert len(decoded) == 3


def test_options_of_videos_are_left_out_where_there_is_none(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], tmp_path: Path
) -> None:
    processor = bundled_pipe("videollama2-av-tiny").processor
    asker = Asker(processor, torch.float32, {"num_frames": 2, "use_audio_in_video": False}).for_thread()
    heard = asker.inputs(ask(Medium(questions[0].path, "audio"), text="Are the beeps high or low?"))
    assert "input_features" in heard.row
    assert heard.media == [{"type": "audio", "path": str(questions[0].path)}]
    picture = tmp_path / "picture.png"
    Image.new("RGB", (32, 32)).save(picture)
    assert "pixel_values" in asker.inputs(ask(Medium(picture, "image"))).row


@pytest.mark.parametrize("use_audio", [True, False])
def test_an_item_says_whether_its_video_is_heard(
    bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion], use_audio: bool
) -> None:
    medium = Medium(questions[0].path, use_audio=use_audio)
    asker = Asker(bundled_pipe("videollama2-av-tiny").processor, torch.float32).for_thread()
    assert ("input_features" in asker.inputs(ask(medium)).row) is use_audio
    # A model without ears sees the video all the same.
    deaf = Asker(bundled_pipe("pllava-tiny").processor, torch.float32).for_thread()
    assert "pixel_values_videos" in deaf.inputs(ask(medium)).row


def test_what_cannot_be_read_is_told(bundled_pipe: Callable[[str], Any], tmp_path: Path) -> None:
    asker = Asker(bundled_pipe("pllava-tiny").processor, torch.float32).for_thread()
    with pytest.raises(MediaNotFound, match=r"gone\.mp4"):
        asker.inputs(ask(Medium(tmp_path / "gone.mp4")))


def test_threads_do_not_share_a_processor(bundled_pipe: Callable[[str], Any]) -> None:
    processor = bundled_pipe("pllava-tiny").processor
    one, other = (Asker(processor).for_thread().processor for _ in range(2))
    assert one.tokenizer is not other.tokenizer is not processor.tokenizer
    assert not hasattr(type(processor.video_processor).decode, "_key")


def test_a_chat_template_of_a_paper_is_used(bundled_pipe: Callable[[str], Any], questions: list[ClipQuestion]) -> None:
    from hf_videollm.evaluation.prompts_pllava import chat_template

    template = chat_template("eval_mvbench", "mvbench")
    asker = Asker(bundled_pipe("pllava-tiny").processor, torch.float32).for_thread()
    inputs: Inputs = asker.inputs(ask(Medium(questions[0].path), chat_template=template))
    assert inputs.rendered.endswith("ASSISTANT:Best option:(")
