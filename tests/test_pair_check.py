"""A processor that does not fit its model is refused when they are saved and when they are loaded, by what differs."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_av_checkpoint
import tiny_checkpoint
import tiny_ftfv_checkpoint
import tiny_iva_checkpoint
import tiny_linvt

from hf_videollm import CheckpointError, load_pipeline, save_checkpoint

MAKE: dict[str, Callable[[str], tuple[Any, Any]]] = {
    "pllava": lambda _: (tiny_checkpoint.make_model(), tiny_checkpoint.make_processor()),
    "videollama2_av": lambda _: (tiny_av_checkpoint.make_av_model(), tiny_av_checkpoint.make_av_processor()),
    "ftfv": lambda _: (tiny_ftfv_checkpoint.make_model(), tiny_ftfv_checkpoint.make_processor()),
    "iva": lambda _: (tiny_iva_checkpoint.make_model(), tiny_iva_checkpoint.make_processor()),
    "linvt": tiny_linvt.make_linvt,
}


def set_size(part: Any, side: int) -> None:
    part.size = {"height": side, "width": side}
    if part.do_center_crop:
        part.crop_size = {"height": side, "width": side}


def add_words(processor: Any, count: int = 300) -> None:
    processor.tokenizer.add_tokens([f"word{number}" for number in range(count)])


# What is wrong -> the designs it can be wrong in, how it gets wrong, and what the message says.
WRONG: dict[str, tuple[tuple[str, ...], Callable[[Any], None], str]] = {
    "video token": (tuple(MAKE), lambda p: setattr(p, "video_token_id", 9), "its video_token_id is 9, the model's "),
    "image token": (tuple(MAKE), lambda p: setattr(p, "image_token_id", 9), "its image_token_id is 9, the model's "),
    "audio token": (("videollama2_av",), lambda p: setattr(p, "audio_token_id", 9), "its audio_token_id is 9"),
    "query token": (("iva",), lambda p: setattr(p, "query_token_id", 9), "its query_token_id is 9"),
    "number of queries": (("iva",), lambda p: setattr(p, "num_query_tokens", 9), "number of query tokens is 9"),
    "size of frames": (
        ("pllava", "videollama2_av", "iva"),
        lambda p: set_size(p.video_processor, 48),
        r"size of frames \(height, width\) is \(48, 48\), the model's \(\d+, \d+\)",
    ),
    "size of images": (
        ("pllava", "videollama2_av", "iva", "linvt"),
        lambda p: set_size(p.image_processor, 48),
        r"size of images \(height, width\) is \(48, 48\), the model's \(\d+, \d+\)",
    ),
    "pooling": (("pllava",), lambda p: setattr(p, "pooling_shape", [1, 2, 2]), "tokens of 4 frames is 4, the model's"),
    "grid": (("videollama2_av",), lambda p: setattr(p, "patch_grid", [8, 8]), "tokens of 4 frames is 32, the model's"),
    "tokens of images": (("videollama2_av",), lambda p: setattr(p, "image_num_frames", 8), "tokens of an image is 16"),
    "tokens of a frame": (("ftfv",), lambda p: setattr(p, "num_tokens_per_frame", 2), "tokens of 4 frames is 8"),
    "queries of an image": (("ftfv",), lambda p: setattr(p, "num_queries", 16), "tokens of an image is 16"),
    "tokens of a video": (("linvt",), lambda p: setattr(p, "num_tokens_per_video", 3), "tokens of 4 frames is 3"),
    "mel bins": (
        ("videollama2_av",),
        lambda p: setattr(p.feature_extractor, "num_mel_bins", 64),
        "num_mel_bins is 64, the model's 128",
    ),
    "another tokenizer": (tuple(MAKE), add_words, r"has a token of id \d+ \('word299'\), but the model's embed"),
}
CASES = [(design, name) for name, (designs, _, _) in WRONG.items() for design in designs]


@pytest.fixture(scope="module")
def pairs(tiny_image_llm: str) -> dict[str, tuple[Any, Callable[[], Any]]]:
    """Models, each with what makes its processor."""
    return {name: (make(tiny_image_llm)[0], lambda make=make: make(tiny_image_llm)[1]) for name, make in MAKE.items()}


@pytest.mark.parametrize(("design", "name"), CASES)
def test_what_does_not_fit_is_not_saved(design: str, name: str, pairs: dict[str, Any], tmp_path: Path) -> None:
    model, make_processor = pairs[design]
    processor = make_processor()
    WRONG[name][1](processor)
    with pytest.raises(ValueError, match=WRONG[name][2]) as caught:
        save_checkpoint(model, processor, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("design", MAKE)
def test_what_fits_is_saved(design: str, pairs: dict[str, Any], tmp_path: Path) -> None:
    model, make_processor = pairs[design]
    save_checkpoint(model, make_processor(), tmp_path / "out")
    # More tokens are no harm where the embedding has their rows.
    processor = make_processor()
    add_words(processor, 5)
    with pytest.raises(ValueError, match=re.escape("('word4')")):
        save_checkpoint(model, processor, tmp_path / "more")


def test_folders_that_do_not_fit_are_not_loaded(pairs: dict[str, Any], tmp_path: Path) -> None:
    model, make_processor = pairs["pllava"]
    folder = save_checkpoint(model, make_processor(), tmp_path / "out")
    load_pipeline(folder)
    file = folder / "processor_config.json"
    values = json.loads(file.read_text())
    values["video_processor"]["crop_size"] = {"height": 48, "width": 48}
    file.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"out holds model and processor.*\(48, 48\), the model's \(32, 32\)"):
        load_pipeline(folder)
