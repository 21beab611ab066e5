"""The command line: answers, JSON, help, and one line with exit code 2 on bad input."""

import json
from pathlib import Path
from typing import Any

import av
import pytest

from hf_videollm.cli.commands import main


def test_ask_prints_the_answer_alone(cli: Any, tiny_checkpoint: str, clips: list[str]) -> None:
    arguments = ("ask", clips[0], "What moves?", "--model", tiny_checkpoint, "--max-new-tokens", "6")
    code, out, _ = cli(*arguments)
    assert code == 0
    assert len(out.splitlines()) == 1
    code, as_json, _ = cli(*arguments, "--json")
    answer = json.loads(as_json)
    assert code == 0
    assert answer["answer"] == out.strip()
    assert answer["question"] == "What moves?"
    assert answer["num_frames"] == 4
    assert set(answer) == {"video", "question", "answer", "model", "num_frames", "seconds"}


def test_ask_options_reach_the_model(cli: Any, tiny_checkpoint: str, clips: list[str]) -> None:
    base = ("ask", clips[0], "What moves?", "--model", tiny_checkpoint, "--json")
    _, out, _ = cli(*base, "--frames", "2", "--max-new-tokens", "3", "--dtype", "float32", "--device", "cpu")
    answer = json.loads(out)
    assert answer["num_frames"] == 2
    assert len(answer["answer"].replace(" ", "")) <= 3
    code, _, _ = cli(*base, "--start", "0.5", "--end", "1.5", "--max-new-tokens", "3")
    assert code == 0


def test_caption(cli: Any, tiny_checkpoint: str, clips: list[str]) -> None:
    code, out, _ = cli("caption", clips[0], "--model", tiny_checkpoint, "--max-new-tokens", "4", "--json")
    assert code == 0
    assert json.loads(out)["question"] == "Describe the video in details."


def test_captions_of_several_videos(cli: Any, tiny_checkpoint: str, clips: list[str]) -> None:
    """Each is that of a call for the video alone; with a lost file nothing is answered."""
    asked = ("--model", tiny_checkpoint, "--max-new-tokens", "4")
    alone = [json.loads(cli("caption", clip, *asked, "--json")[1])["answer"] for clip in clips[:2]]
    code, out, _ = cli("caption", *clips[:2], *asked, "--json")
    captions = json.loads(out)["captions"]
    assert code == 0
    assert [caption["video"] for caption in captions] == clips[:2]
    assert [caption["answer"] for caption in captions] == alone
    code, out, _ = cli("caption", *clips[:2], *asked)
    assert (code, out) == (0, "".join(f"{clip}\n{answer}\n\n" for clip, answer in zip(clips, alone, strict=False)))
    code, out, err = cli("caption", clips[0], "gone.mp4", *asked)
    assert (code, out) == (2, "")
    assert "gone.mp4" in err


def test_info(cli: Any, tiny_checkpoint: str) -> None:
    code, out, _ = cli("info", tiny_checkpoint, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["design"] == "PllavaForConditionalGeneration"
    assert facts["tokens_per_video"] == 16
    assert facts["tokens_per_image"] == 4
    from tiny_checkpoint import make_model

    total = sum(parameter.numel() for parameter in make_model().parameters())
    assert facts["parameters"]["total"] == total
    assert facts["weight_bytes"]["float32"] == 4 * total
    # 2 (keys and values) x 2 layers x 2 heads x 12 wide x (16 + 256) tokens x 2 bytes
    assert facts["kv_cache_bytes"] == 2 * 2 * 2 * 12 * (16 + 256) * 2
    code, table, _ = cli("info", tiny_checkpoint)
    assert code == 0
    assert "tokens per video" in table


def test_info_of_the_released_7b_counts_what_the_paper_says(cli: Any, tmp_path: Path) -> None:
    """No weights needed: 2304 tokens a video, 7.06 billion parameters."""
    from transformers import CLIPVisionConfig, LlamaConfig

    import hf_videollm

    tower = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        image_size=336,
        patch_size=14,
        num_hidden_layers=24,
        num_attention_heads=16,
    )
    config = hf_videollm.PllavaConfig(vision_config=tower, text_config=LlamaConfig(vocab_size=32064))
    config.save_pretrained(tmp_path)
    _, out, _ = cli("info", str(tmp_path), "--json")
    facts = json.loads(out)
    assert facts["tokens_per_video"] == 2304
    assert facts["tokens_per_image"] == 144
    assert facts["parameters"]["total"] == 7_063_427_072  # the released key list without LoRA


@pytest.mark.parametrize("command", ["", "ask", "caption", "info", "convert", "convert pllava", "tune-alpha"])
def test_help_shows_what_to_type(cli: Any, command: str) -> None:
    code, out, _ = cli(*command.split(), "--help")
    assert code == 0
    if command and command != "convert":
        assert "Example" in out
        assert f"hf-videollm {command}" in out


def matroska(folder: Path) -> bytes:
    """A clip whose container can be opened although its end is missing."""
    from hf_videollm.synthetic.clips import make_scene, write_scene_mp4

    write_scene_mp4(make_scene(5), folder / "whole.mp4")
    with av.open(str(folder / "whole.mp4")) as source, av.open(str(folder / "whole.mkv"), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    return (folder / "whole.mkv").read_bytes()


BAD_INPUT = [
    (("ask", "gone.mp4", "What?", "--model", "{checkpoint}"), "gone.mp4"),
    (("ask", "{text}", "What?", "--model", "{checkpoint}"), "notes.mp4"),
    (("ask", "{clip}", "What?", "--model", "./nowhere"), "./nowhere"),
    (("ask", "{clip}", "What?", "--model", "{checkpoint}", "--dtype", "int3"), "dtype"),
    (("ask", "{clip}", "What?", "--model", "{checkpoint}", "--frames", "0"), "--frames"),
    (("ask", "{clip}", "What?", "--model", "{checkpoint}", "--frames", "many"), "--frames"),
    (("ask", "{clip}", "What?", "--model", "{checkpoint}", "--start", "90"), "90"),
    (("ask", "{clip}", "What?", "--model", "{checkpoint}", "--lora-alpha", "4"), "--lora-alpha"),
    (("ask", "{clip}", "What?", "--model", "{checkpoint}", "--device", "cuda:9"), "cuda:9"),
    (("ask", "{clip}", "What?", "--model", "{checkpoint}", "--device", "xyz"), "xyz"),
    (("ask", "{clip}", "What?", "--model", "{checkpoint}", "--frames", "1000000000"), "1,000,000,000 frames"),
    (("convert",), "hf-videollm convert pllava"),
    (("ask", "{clip}", " ", "--model", "{checkpoint}"), "question is empty"),
    (("ask", "https://example.com/a.mp4", "What?", "--model", "{checkpoint}"), "--allow-host"),
    (("ask", "{cut}", "What?", "--model", "{checkpoint}"), "--on-decode-error truncate"),
    (("tune-alpha", "{checkpoint}", "gone.jsonl", "--alphas", ","), "--alphas"),
    (("tune-alpha", "{checkpoint}", "gone.jsonl", "--alphas", "-1,2"), "--alphas"),
    (("ask", "https://example.com/a.mp4", "What?", "--model", "{checkpoint}"), "example.com"),
    (("ask", "{clip}"), "question"),
    (("ask", "{clip}", "What?", "--model", "{official}"), "hf-videollm convert pllava"),
    (("info", "{official}"), "hf-videollm convert pllava"),
    (("info", "{empty}"), "empty"),
    (("convert", "pllava", "{empty}", "{empty}-out"), "empty"),
    (("convert", "pllava", "./nowhere", "./out"), "nowhere"),
    (("tune-alpha", "{checkpoint}", "gone.jsonl"), "gone.jsonl"),
    (("frobnicate",), "frobnicate"),
    ((), "ask"),
]


@pytest.mark.parametrize(("arguments", "named"), BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(
    cli: Any, tiny_checkpoint: str, clips: list[str], tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    (tmp_path / "notes.mp4").write_text("this is no video")
    (tmp_path / "empty").mkdir()
    (tmp_path / "official").mkdir()
    (tmp_path / "official" / "config.json").write_text(
        json.dumps({"model_type": "llava", "pooling_shape": [16, 12, 12]})
    )
    values = {"checkpoint": tiny_checkpoint, "clip": clips[0]}
    values |= {"text": str(tmp_path / "notes.mp4"), "empty": str(tmp_path / "empty")}
    (tmp_path / "cut.mkv").write_bytes(matroska(tmp_path)[:-2000])
    values["cut"] = str(tmp_path / "cut.mkv")
    values["official"] = str(tmp_path / "official")
    code, out, err = cli(*(argument.format(**values) for argument in arguments))
    assert code == 2, err
    assert not out
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert named.lower() in lines[0].lower()
    assert "Traceback" not in err


def test_debug_shows_the_traceback(tiny_checkpoint: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        main(["ask", "gone.mp4", "What?", "--model", tiny_checkpoint, "--debug"])


def test_version(cli: Any) -> None:
    import hf_videollm

    assert cli("--version")[1].strip() == hf_videollm.__version__


def test_tokens_of_a_frame(cli: Any, tiny_ftfv_checkpoint: str, tiny_checkpoint: str, clips: list[str]) -> None:
    question = ("ask", clips[0], "What moves?", "--max-new-tokens", "6", "--tokens-per-frame")
    code, out, error = cli(*question, "2", "--model", tiny_ftfv_checkpoint)
    assert (code, len(out.splitlines())) == (0, 1), error
    code, _, error = cli(*question, "10", "--model", tiny_ftfv_checkpoint)
    assert code == 2
    assert "Traceback" not in error
    code, _, error = cli(*question, "2", "--model", tiny_checkpoint)
    assert code == 2
    assert "leave out --tokens-per-frame" in error


def test_flops_of_a_bundled_checkpoint(cli: Any) -> None:
    code, out, _ = cli("flops", "ftfv-tiny", "--json")
    assert code == 0
    assert json.loads(out)
