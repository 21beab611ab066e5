"""The alpha search: it answers as the model does alone, finds the alpha that wrote the labels, and leaves no trace."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pllava_sources import RANK, raw_config, released_tensors, write_source, write_tokenizer
from rich.console import Console
from transformers import AutoModelForImageTextToText, AutoProcessor

from hf_videollm.convert.pllava.convert import convert_pllava
from hf_videollm.data.records import VideoQARecord, make_record, write_jsonl
from hf_videollm.models.errors import CheckpointError, MediaError
from hf_videollm.training.tune_alpha import (
    AlphaScore,
    TuneReport,
    current_alpha,
    exact_match,
    normalise,
    save_alpha,
    tune_alpha,
    tune_alpha_on_file,
)

ALPHAS = (0.0, 4.0, 16.0)
QUESTIONS = ("what moves ?", "red", "blue what ? no", "yes", "what")
NEW_TOKENS = 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    # End and padding tokens never come: every answer has all its tokens.
    source = write_tokenizer(write_source(folder / "source", released_tensors(), raw_config()))
    convert_pllava(source, folder / "converted")
    return folder / "converted"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of noise frames, of different lengths."""
    folder = tmp_path_factory.mktemp("videos")
    noise = np.random.default_rng(0)
    paths = []
    for number, length in enumerate((3, 5, 2, 4, 3)):
        paths.append(folder / f"clip{number}")
        paths[-1].mkdir()
        for frame in range(length):
            Image.fromarray(noise.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(paths[-1] / f"{frame:03}.png")
    return paths


@pytest.fixture
def model(checkpoint: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def processor(checkpoint: Path) -> Any:
    return AutoProcessor.from_pretrained(checkpoint)


def answer_alone(model: Any, processor: Any, record: VideoQARecord, alpha: float) -> str:
    """One record at a time, from pixels: no batch, no padding, no shared encoding."""
    model.set_lora_alpha(alpha)
    prompt = processor.apply_chat_template(record.prompt_messages(), tokenize=False, add_generation_prompt=True)
    inputs = processor(text=prompt, videos=record.media("video") or None, return_tensors="pt")
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
    return processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def records_answered_at(model: Any, processor: Any, videos: list[Path], alpha: float) -> list[VideoQARecord]:
    """Records whose answers are what the model says at `alpha`."""
    records = []
    for number, (video, question) in enumerate(zip(videos, QUESTIONS, strict=True)):
        record = make_record(f"r{number}", str(video), [(question, "unknown")])
        records.append(make_record(record.id, str(video), [(question, answer_alone(model, processor, record, alpha))]))
    model.set_lora_alpha(4.0)
    return records


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_it_finds_the_alpha_that_wrote_the_labels(
    model: Any, processor: Any, videos: list[Path], batch_size: int
) -> None:
    for right in ALPHAS:
        records = records_answered_at(model, processor, videos, right)
        report = tune_alpha(model, processor, records, ALPHAS, batch_size=batch_size, max_new_tokens=NEW_TOKENS)
        scores = {row.alpha: row.score for row in report.rows}
        assert scores[right] == 1.0
        assert report.best == right
        # Sensitivity: the other alphas answer something else.
        assert all(score < 1.0 for alpha, score in scores.items() if alpha != right)
        assert {row.n for row in report.rows} == {5}


def test_a_score_of_its_own_and_progress(model: Any, processor: Any, videos: list[Path]) -> None:
    records = records_answered_at(model, processor, videos, 16.0)
    seen: list[tuple[int, int]] = []
    predictions: dict[str, list[str]] = {}

    def length(prediction: str, reference: str) -> float:
        predictions.setdefault(reference, []).append(prediction)
        return float(len(prediction))

    report = tune_alpha(
        model,
        processor,
        records,
        [*ALPHAS, 4.0],
        batch_size=2,
        max_new_tokens=NEW_TOKENS,
        score=length,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [row.alpha for row in report.rows] == list(ALPHAS)
    assert seen[-1] == (15, 15)
    assert seen == sorted(seen)
    expected = [answer_alone(model, processor, record, alpha) for alpha in ALPHAS for record in records]
    assert sorted(text for texts in predictions.values() for text in texts) == sorted(expected)


def test_alpha_and_mode_are_as_before(model: Any, processor: Any, videos: list[Path]) -> None:
    records = records_answered_at(model, processor, videos, 16.0)
    model.set_lora_alpha(7.0)
    model.train()
    report = tune_alpha(model, processor, records, ALPHAS, max_new_tokens=NEW_TOKENS)
    assert current_alpha(model) == model.config.lora_alpha == 7.0
    assert model.training
    assert report.best == 16.0
    tune_alpha(model, processor, records, ALPHAS, max_new_tokens=NEW_TOKENS, set_best=True)
    assert current_alpha(model) == model.config.lora_alpha == 16.0
    broken = make_record("broken", str(videos[0] / "nowhere.mp4"), [("what", "red")])
    with pytest.raises(MediaError, match=r"nowhere\.mp4"):
        tune_alpha(model, processor, [*records, broken], [0.0], batch_size=1, max_new_tokens=NEW_TOKENS)
    assert current_alpha(model) == 16.0


def test_records_with_images_and_without_media(model: Any, processor: Any, videos: list[Path]) -> None:
    image = {"type": "image", "path": str(videos[0] / "000.png")}
    rows = [
        {"id": "image", "content": [image, {"type": "text", "text": "what"}]},
        {"id": "text", "content": [{"type": "text", "text": "red"}]},
        {"id": "video", "content": [{"type": "video", "path": str(videos[1])}, {"type": "text", "text": "what"}]},
    ]
    records = [
        VideoQARecord.from_dict(
            {
                "id": row["id"],
                "messages": [{"role": "user", "content": row["content"]}, {"role": "assistant", "content": "blue"}],
            }
        )
        for row in rows
    ]
    for batch_size in (1, 3):
        report = tune_alpha(model, processor, records, [4.0], batch_size=batch_size, max_new_tokens=NEW_TOKENS)
        assert report.rows[0].n == 3


def test_impossible_tasks_are_refused_before_anything_is_read(model: Any, processor: Any, videos: list[Path]) -> None:
    record = make_record("r", "never/opened.mp4", [("what", "red")])
    question = VideoQARecord("open", record.prompt_messages())
    sound = VideoQARecord.from_dict(
        {
            "id": "loud",
            "messages": [
                {"role": "user", "content": [{"type": "audio", "path": "a.wav"}, {"type": "text", "text": "what"}]},
                {"role": "assistant", "content": "red"},
            ],
        }
    )
    for records, alphas, options, words in (
        ([record], [], {}, "No alphas to try"),
        ([record], [-1.0], {}, "alpha must be a number of at least 0, not -1.0"),
        ([record], [float("nan")], {}, "alpha must be a number"),
        ([], [4.0], {}, "no records"),
        ([record], [4.0], {"batch_size": 0}, "batch_size"),
        ([record, question], [4.0], {}, "'open' has no answer"),
        ([sound], [4.0], {}, "'loud' has sound"),
    ):
        with pytest.raises(ValueError, match=words):
            tune_alpha(model, processor, records, alphas, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no LoRA adapter"):
        tune_alpha(model.merge_lora(), processor, [record], [4.0])


def test_from_files_with_the_best_alpha_saved(
    checkpoint: Path, model: Any, processor: Any, videos: list[Path], tmp_path: Path
) -> None:
    records = records_answered_at(model, processor, videos, 16.0)
    data = write_jsonl(records, tmp_path / "labelled.jsonl")
    before = json.loads((checkpoint / "config.json").read_text())
    options: dict[str, Any] = {"alphas": ALPHAS, "max_new_tokens": NEW_TOKENS, "device": "cpu", "progress": False}
    report = tune_alpha_on_file(checkpoint, data, **options)
    assert report.best == 16.0
    assert json.loads((checkpoint / "config.json").read_text()) == before
    assert tune_alpha_on_file(checkpoint, data, limit=2, **options).rows[0].n == 2
    try:
        tune_alpha_on_file(checkpoint, data, save=True, **options)
        assert json.loads((checkpoint / "config.json").read_text()) == {**before, "lora_alpha": 16.0}
        again = AutoModelForImageTextToText.from_pretrained(checkpoint)
        assert next(iter(again.lora_layers().values())).scaling["default"] == 16 / RANK
    finally:
        save_alpha(checkpoint, 4.0)
    with pytest.raises(ValueError, match="is no local folder"):
        tune_alpha_on_file("org/name", data, save=True, **options)
    with pytest.raises(FileNotFoundError):
        tune_alpha_on_file(checkpoint, tmp_path / "nothing.jsonl", **options)
    (tmp_path / "broken").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        save_alpha(tmp_path / "broken", 4.0)


def test_ties_go_to_the_smallest_alpha_and_the_table_prints() -> None:
    rows = [AlphaScore(32.0, 0.5, 10), AlphaScore(20.0, 0.75, 10), AlphaScore(4.0, 0.75, 10), AlphaScore(0.0, 0.1, 10)]
    report = TuneReport(rows)
    assert report.best == 4.0
    assert json.loads(json.dumps(report.to_dict()))["best"] == 4.0
    console = Console(record=True, width=80)
    console.print(report.render())
    text = console.export_text()
    assert "0.7500" in text
    assert "best alpha: 4" in text


def test_equal_scores_are_told() -> None:
    report = TuneReport([AlphaScore(0.0, 0.5, 10), AlphaScore(4.0, 0.5, 10)])
    assert (report.is_tied, report.to_dict()["tied"]) == (True, True)
    console = Console(record=True, width=80)
    console.print(report.render())
    assert "all alphas have the same score: none is best" in console.export_text()
    assert not TuneReport([AlphaScore(0.0, 0.5, 10)]).is_tied
    assert not TuneReport([AlphaScore(0.0, 0.5, 10), AlphaScore(4.0, 0.6, 10)]).is_tied


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Red.", "red", True),
        (" the  Red\ncircle ", "The red circle!", True),
        ("(A)", "a", True),
        ("Straße", "STRASSE", True),
        ("red", "blue", False),
        ("10", "1 0", False),
        ("", "red", False),
    ],
)
def test_exact_match(one: str, other: str, same: bool) -> None:
    assert exact_match(one, other) == float(same)
    assert normalise(normalise(one)) == normalise(one)


def test_no_gradients_are_kept(model: Any, processor: Any, videos: list[Path]) -> None:
    records = [make_record("r", str(videos[0]), [("what", "red")])]
    tune_alpha(model, processor, records, [4.0], max_new_tokens=1)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()
