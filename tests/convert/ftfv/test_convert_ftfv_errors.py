"""Whatever is wrong with a source of FTFV or an option: one line that names it, and nothing is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ftfv_sources import PREFIX, llama_tensors, qwen_vl_tensors, write_llama, write_qwen_vl
from refusals import Change, put, refusal, siblings, without

from hf_videollm.convert.ftfv.convert import convert_ftfv
from hf_videollm.models.errors import CheckpointError

BLOCK = f"{PREFIX}transformer.resblocks.1."
IN_PROJ = f"{BLOCK}attn.in_proj.weight"
UP = "model.layers.1.mlp.up_proj.weight"


def refused(qwen_vl: Path, llama: Path, words: str, **options: Any) -> None:
    """The conversion fails with one line that holds `words`, and leaves nothing behind."""
    folder = llama.parent
    with refusal(folder, words):
        convert_ftfv(qwen_vl, llama, folder / "out", **{"num_tokens_per_frame": 4, **options})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without(IN_PROJ), rf"{IN_PROJ} is missing in .*model\.safetensors"),
        (without(f"{PREFIX}proj"), rf"{PREFIX}proj is missing"),
        (without(f"{PREFIX}attn_pool.pos_embed"), r"attn_pool\.pos_embed is missing"),
        (put(IN_PROJ, torch.zeros(48, 24)), r"in_proj\.weight in .* has the shape \(48, 24\) instead of \(72, 24\)"),
        (put(f"{PREFIX}proj", torch.zeros(256, 64)), r"proj in .* has the shape \(256, 64\) instead of \(256, 256\)"),
        (put(f"{PREFIX}positional_embedding", torch.zeros(1024, 24)), r"\(1024, 24\) instead of \(256, 24\)"),
        (put(f"{PREFIX}attn_pool.attn.in_proj_weight", torch.zeros(256, 256)), r"instead of \(768, 256\)"),
        (put(f"{PREFIX}class_embedding", torch.zeros(24)), "class_embedding in .* has no place in FTFV"),
        (put(f"{PREFIX}ln_post.weight", torch.zeros(256, dtype=torch.int8)), "is int8: quantized weights cannot"),
    ],
)
def test_vision_tensors_that_do_not_fit_are_named(tmp_path: Path, llama: Path, change: Change, words: str) -> None:
    tensors = qwen_vl_tensors()
    change(tensors)
    refused(write_qwen_vl(tmp_path / "qwen_vl", tensors), llama, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without(UP), rf"{UP} is missing in .*llama"),
        (without("lm_head.weight"), "lm_head.weight is missing in .*llama"),
        (put(UP, torch.zeros(7, 256)), r"up_proj\.weight in .* has the shape \(7, 256\) instead of \(96, 256\)"),
        (put("model.layers.0.self_attn.q_proj.bias", torch.zeros(256)), r"q_proj\.bias in .* has no place in FTFV"),
    ],
)
def test_language_tensors_that_do_not_fit_are_named(tmp_path: Path, qwen_vl: Path, change: Change, words: str) -> None:
    tensors = llama_tensors()
    change(tensors)
    refused(qwen_vl, write_llama(tmp_path / "llama", tensors), words)


def test_a_folder_without_a_vision_module_is_no_qwen_vl(tmp_path: Path, llama: Path) -> None:
    """Qwen without eyes, Qwen2-VL with others, and their pickled index, which is enough to see it."""
    language = {name: tensor for name, tensor in qwen_vl_tensors().items() if not name.startswith(PREFIX)}
    refused(write_qwen_vl(tmp_path / "qwen", language), llama, "has no tensors that begin with transformer.visual.")
    newer = {"visual.blocks.0.attn.qkv.weight": torch.zeros(6, 2)}
    refused(write_qwen_vl(tmp_path / "newer", newer), llama, r"found visual\.blocks.*Qwen2-VL and later ones")
    pickled = write_qwen_vl(tmp_path / "pickled", language, layout="sharded bin")
    for file in pickled.glob("*.bin"):
        file.unlink()
    refused(pickled, llama, r"index\.json has no tensors that begin with transformer\.visual\.")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heads": None}, r"visual\.heads must be a positive number, not None"),
        ({"layers": 0}, r"visual\.layers must be a positive number, not 0"),
        ({"mlp_ratio": "4"}, r"visual\.mlp_ratio must be a positive number, not '4'"),
        ({"mlp_ratio": float("nan")}, r"visual\.mlp_ratio must be a positive number, not nan"),
        ({"heads": 5}, r"hidden_size \(24\) must be a multiple of num_attention_heads \(5\)"),
        ({"n_queries": 15}, "num_queries must be a square number"),
        (
            {"output_dim": 128},
            "is 256 wide, but the vision module in .* gives vectors of width 128: choose a language model",
        ),
    ],
)
def test_configurations_that_do_not_fit_are_named(
    tmp_path: Path, llama: Path, change: dict[str, Any], words: str
) -> None:
    refused(write_qwen_vl(tmp_path / "qwen_vl", **change), llama, words)


def test_files_that_are_missing_or_damaged_are_named(qwen_vl: Path, llama: Path) -> None:
    (qwen_vl / "config.json").write_text('{"model_type": "qwen"}')
    refused(qwen_vl, llama, "has no section 'visual'")
    (qwen_vl / "model.safetensors").unlink()
    refused(qwen_vl, llama, "qwen_vl has no weights: download the Qwen-VL checkpoint again")
    (qwen_vl / "config.json").unlink()
    refused(qwen_vl, llama, r"qwen_vl is no Qwen-VL checkpoint: it has no config\.json")
    refused(llama.parent / "nowhere", llama, "nowhere does not exist: pass the folder of the Qwen-VL checkpoint")


def test_a_language_model_must_be_one(qwen_vl: Path, llama: Path) -> None:
    file = llama / "config.json"
    raw = json.loads(file.read_text())
    for change, words in (
        (
            {"model_type": "clip_vision_model"},
            "describes a model of type 'clip_vision_model', which is no causal language model",
        ),
        ({"model_type": "ftfv"}, "describes a model of type 'ftfv', which is no causal language model"),
        ({"model_type": "unheard_of"}, "describes no model that transformers knows"),
    ):
        file.write_text(json.dumps({**raw, **change}))
        refused(qwen_vl, llama, words)
    file.write_text(json.dumps(raw))
    (llama / "model.safetensors").unlink()
    refused(qwen_vl, llama, "llama has no weights: download the language model again")
    file.unlink()
    refused(qwen_vl, llama, r"llama is no language model: it has no config\.json")


def test_a_shard_that_is_missing_is_named(tmp_path: Path, llama: Path) -> None:
    pickled = write_qwen_vl(tmp_path / "pickled", layout="sharded bin")
    (pickled / "pytorch_model-00002-of-00003.bin").unlink()
    refused(pickled, llama, "pytorch_model-00002-of-00003.bin is missing")


def test_a_tokenizer_of_another_model_is_refused(qwen_vl: Path, tmp_path: Path) -> None:
    small = {
        name: tensor[:80] if name in ("lm_head.weight", "model.embed_tokens.weight") else tensor
        for name, tensor in llama_tensors().items()
    }
    llama = write_llama(tmp_path / "llama", small, vocab_size=80)
    refused(qwen_vl, llama, "has 99 tokens, the language model only 80: pass the tokenizer")
    (tmp_path / "empty").mkdir()
    refused(qwen_vl, llama, "empty holds no tokenizer", tokenizer=tmp_path / "empty")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_tokens_per_frame": 17}, "num_tokens_per_frame must be a whole number from 1 to 16"),
        ({"num_tokens_per_frame": 0}, "num_tokens_per_frame must be a whole number from 1 to 16"),
        ({"num_frames": 0}, "num_frames must be at least 1, not 0"),
        ({"dtype": "int8"}, "dtype must be one of float32"),
        ({"max_shard_size": 0}, "max_shard_size must be at least 1 byte"),
    ],
)
def test_options_out_of_range(qwen_vl: Path, llama: Path, options: dict[str, Any], words: str) -> None:
    refused(qwen_vl, llama, words, **options)


def test_sources_are_never_overwritten(qwen_vl: Path, llama: Path) -> None:
    for destination, name in ((qwen_vl, "Qwen-VL checkpoint"), (llama, "language model")):
        with pytest.raises(CheckpointError, match=f"is, or contains, the {name}"):
            convert_ftfv(qwen_vl, llama, destination, overwrite=True, num_tokens_per_frame=4)


def test_a_full_destination_is_kept_unless_asked(qwen_vl: Path, llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(FileExistsError, match="out"):
        convert_ftfv(qwen_vl, llama, out, num_tokens_per_frame=4)
    assert siblings(out) == ["mine"]
    convert_ftfv(qwen_vl, llama, out, num_tokens_per_frame=4, overwrite=True)
    assert "mine" not in siblings(out)
    assert "config.json" in siblings(out)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("No space left on device")])
def test_an_interrupt_leaves_nothing(qwen_vl: Path, llama: Path, tmp_path: Path, error: BaseException) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise error

    before = siblings(tmp_path)
    with pytest.raises(type(error)):
        convert_ftfv(qwen_vl, llama, tmp_path / "out", num_tokens_per_frame=4, progress=stop)
    assert siblings(tmp_path) == before


def test_a_full_disk_is_seen_before_writing(qwen_vl: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    refused(qwen_vl, llama, "has 1 bytes free, but the converted weights need")


def test_the_command(cli: Callable[..., tuple[int, str, str]], qwen_vl: Path, llama: Path, tmp_path: Path) -> None:
    arguments = ("convert", "ftfv", str(qwen_vl), str(llama), str(tmp_path / "out"), "--tokens-per-frame", "4")
    code, out, _ = cli(*arguments, "--seed", "7", "--frames", "3", "--json")
    report = json.loads(out)
    assert code == 0
    assert (report["seed"], report["left_aside"], report["has_processor"]) == (7, 4, True)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_frames"] == 3
    code, out, _ = cli(*arguments, "--overwrite")
    assert code == 0
    assert "random, N(0, 0.02), seed 0" in out
    assert "not used" in out
    code, out, error = cli(*arguments)
    assert (code, out) == (2, "")
    assert "--overwrite" in error
    code, _, error = cli(*arguments[:-1], "17", "--overwrite")
    assert code == 2
    assert "num_tokens_per_frame must be a whole number from 1 to 16" in error
    code, out, _ = cli("convert", "ftfv", "--help")
    assert code == 0
    assert "hf-videollm convert ftfv ./Qwen-VL" in out
