"""Commands on a LinVT checkpoint, on LinVT alone, and on XGen-MM, which has to become one first."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_linvt import make_linvt

from hf_videollm import save_checkpoint
from hf_videollm.data.records import make_record, write_jsonl
from hf_videollm.models.configuration_xgen_mm import XgenMMConfig

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def adapter(tiny_image_llm: str, tmp_path: Path) -> str:
    model, processor = make_linvt(tiny_image_llm)
    model.save_pretrained(tmp_path / "adapter", adapter_only=True)
    processor.save_pretrained(tmp_path / "adapter")
    return str(tmp_path / "adapter")


def one_line(error: str) -> str:
    return " ".join(error.split())


def test_flops_cannot_be_counted(cli: Cli, tiny_linvt_checkpoint: str) -> None:
    code, out, err = cli("flops", tiny_linvt_checkpoint)
    assert (code, out) == (2, "")
    assert "is a LinVT: the operations of its image-LLM are known only when it runs" in one_line(err)


def test_there_is_no_alpha_to_tune(cli: Cli, tiny_linvt_checkpoint: str, clips: list[str], tmp_path: Path) -> None:
    write_jsonl([make_record("0", clips[0], [("what?", "red")])], tmp_path / "data.jsonl")
    code, out, err = cli("tune-alpha", tiny_linvt_checkpoint, str(tmp_path / "data.jsonl"))
    assert (code, out) == (2, "")
    assert "LinVTForCausalLM keeps no LoRA whose alpha could be tuned: PLLaVA does." in one_line(err)


def test_an_adapter_is_called_one(cli: Cli, adapter: str, clips: list[str]) -> None:
    for command in (["info", adapter], ["ask", clips[0], "what?", "--model", adapter]):
        code, out, err = cli(*command)
        assert (code, out) == (2, "")
        assert "is a LinVT adapter, without its image-LLM: load it with LinVTForCausalLM.from_adapter" in one_line(err)


def test_xgen_mm_is_called_an_image_llm(cli: Cli, tmp_path: Path) -> None:
    XgenMMConfig().save_pretrained(tmp_path)
    code, out, err = cli("info", str(tmp_path))
    assert (code, out) == (2, "")
    assert "is XGen-MM, an image-LLM: add LinVT to use it for videos (LinVTForCausalLM.from_image_llm)" in one_line(err)


def test_a_processor_that_reads_no_videos_is_no_pair(tiny_image_llm: str, tmp_path: Path) -> None:
    model, processor = make_linvt(tiny_image_llm)
    with pytest.raises(ValueError, match="LlavaProcessor reads no videos: pass the processor of the model's own"):
        save_checkpoint(model, processor.image_llm_processor, tmp_path / "out")
