"""The command line with a design that hears."""

import json
from pathlib import Path
from typing import Any

import pytest

from hf_videollm.synthetic.clips import make_scene, write_scene_mp4

QUESTION = "What moves?"


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A clip with sound, the same without, and a sound alone."""
    import av

    folder = tmp_path_factory.mktemp("media")
    paths = {name: str(folder / f"{name}.mp4") for name in ("loud", "mute")}
    for name, path in paths.items():
        write_scene_mp4(make_scene(1), path, with_audio=name == "loud")
    paths["sound"] = str(folder / "sound.m4a")
    with av.open(paths["loud"]) as source, av.open(paths["sound"], "w") as target:
        track = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = track
                target.mux(packet)
    return paths


def answer(cli: Any, checkpoint: str, file: str, *options: str) -> str:
    code, out, error = cli("ask", file, QUESTION, "--model", checkpoint, "--max-new-tokens", "6", "--json", *options)
    assert code == 0, error
    return json.loads(out)["answer"]


def test_sound_is_heard_unless_told_otherwise(cli: Any, tiny_av_checkpoint: str, media: dict[str, str]) -> None:
    heard = answer(cli, tiny_av_checkpoint, media["loud"])
    assert heard == answer(cli, tiny_av_checkpoint, media["loud"], "--sound")
    unheard = answer(cli, tiny_av_checkpoint, media["loud"], "--no-sound")
    assert heard != unheard
    assert unheard == answer(cli, tiny_av_checkpoint, media["mute"], "--missing-audio", "skip")


def test_a_file_of_sound_alone(cli: Any, tiny_av_checkpoint: str, media: dict[str, str]) -> None:
    assert answer(cli, tiny_av_checkpoint, media["sound"])


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("mute", ("--missing-audio", "error"), "mute.mp4: there is no sound"),
        ("mute", ("--missing-audio", "quiet"), "choose one of silence, skip, error"),
    ],
)
def test_bad_input_is_one_line(
    cli: Any,
    tiny_av_checkpoint: str,
    media: dict[str, str],
    file: str,
    options: tuple[str, ...],
    message: str,
) -> None:
    code, out, error = cli("ask", media[file], QUESTION, "--model", tiny_av_checkpoint, *options)
    assert code == 2
    assert out == ""
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_deaf_model_says_so(cli: Any, tiny_checkpoint: str, media: dict[str, str]) -> None:
    code, _, error = cli("ask", media["loud"], QUESTION, "--model", tiny_checkpoint, "--no-sound")
    assert code == 2
    assert "does not use sound: leave out --sound/--no-sound" in error
    code, _, error = cli("ask", media["sound"], QUESTION, "--model", tiny_checkpoint)
    assert code == 2
    assert "sound.m4a" in error


def test_info_counts_the_ear(cli: Any, tiny_av_checkpoint: str) -> None:
    code, out, _ = cli("info", tiny_av_checkpoint, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["tokens_per_sound"] == 1496
    assert {"audio_tower", "audio_projector"} <= set(facts["parameters"])
    parts = sum(count for name, count in facts["parameters"].items() if name != "total")
    assert parts == facts["parameters"]["total"]
    assert "tokens per 30 s of sound" in cli("info", tiny_av_checkpoint)[1]


def test_unconverted_checkpoints_are_pointed_to_the_converter(cli: Any, tmp_path: Path) -> None:
    config = {"model_type": "videollama2_qwen2", "mm_vision_tower": "google/siglip-so400m-patch14-384"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, _, error = cli("info", str(tmp_path))
    assert code == 2
    assert "hf-videollm convert videollama2 SRC DST" in error
