"""Without `trust_remote_code=True` no code of a checkpoint runs and nobody is asked, whichever file offers the code."""

import builtins
import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

import hf_videollm
from hf_videollm import LinVTForCausalLM, load_pipeline
from hf_videollm.cli.commands import main
from hf_videollm.costs.info import describe_checkpoint
from hf_videollm.hub.checkpoint import default_checkpoint
from hf_videollm.training.loading import load_for_training

CODE = """
open({mark!r}, "w").close()
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

class Config(PreTrainedConfig):
    model_type = "unheard_of"

class Model(PreTrainedModel):
    config_class = Config

class Tokenizer(PreTrainedTokenizerFast):
    pass

class Processor(ProcessorMixin):
    pass

def generate(model, *args, **kwargs):
    return None
"""


def change(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**content, **changes}))


def in_config(folder: Path) -> None:
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model"}
    auto_map["AutoProcessor"] = "evil.Processor"
    change(folder / "config.json", model_type="unheard_of", auto_map=auto_map)


def in_a_part_of_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    change(folder / "config.json", text_config={**config["text_config"], "model_type": "unheard", "auto_map": auto_map})


def in_a_known_part_of_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", text_config={**config["text_config"], "auto_map": {"AutoModel": "evil.Model"}})


def in_processor(folder: Path) -> None:
    change(folder / "processor_config.json", processor_class="Unheard", auto_map={"AutoProcessor": "evil.Processor"})


def in_tokenizer(folder: Path) -> None:
    auto_map = {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}
    change(folder / "tokenizer_config.json", tokenizer_class="Unheard", auto_map=auto_map)


def in_video_processor(folder: Path) -> None:
    auto_map = {"AutoVideoProcessor": "evil.Processor", "AutoImageProcessor": "evil.Processor"}
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        change(folder / name, video_processor_type="Unheard", image_processor_type="Unheard", auto_map=auto_map)


def in_generate(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "evil.py", folder / "custom_generate" / "generate.py")


def in_pipeline(folder: Path) -> None:
    entry = {"impl": "evil.Model", "pt": ["AutoModelForImageTextToText"], "type": "multimodal"}
    change(folder / "config.json", custom_pipelines={"video-text-to-text": entry})


def command_line(folder: str) -> None:
    main(["ask", "clip.mp4", "What is it?", "--model", folder])


WAYS_IN: dict[str, Callable[[str], Any]] = {
    "load_pipeline": load_pipeline,
    "load_pipeline(False)": lambda folder: load_pipeline(folder, trust_remote_code=False),
    "load_for_training": load_for_training,
    "load_for_training(options)": lambda folder: load_for_training(folder, {"num_frames": 4}),
    "info": describe_checkpoint,
    "PllavaForConditionalGeneration": hf_videollm.PllavaForConditionalGeneration.from_pretrained,
    "PllavaModel": hf_videollm.PllavaModel.from_pretrained,
    "PllavaProcessor": hf_videollm.PllavaProcessor.from_pretrained,
    "LinVTProcessor": hf_videollm.LinVTProcessor.from_pretrained,
    "from_image_llm": LinVTForCausalLM.from_image_llm,
    "from_adapter": LinVTForCausalLM.from_adapter,
    "command line": command_line,
}


@pytest.fixture(params=[in_config, in_a_part_of_config, in_a_known_part_of_config, in_processor, in_tokenizer,
                        in_video_processor, in_generate, in_pipeline])  # fmt: skip
def evil(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint with code, and the file that the code makes when it runs."""
    folder, mark = tmp_path / "checkpoint", tmp_path / "mark"
    shutil.copytree(default_checkpoint(), folder)
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    request.param(folder)
    return folder, mark


@pytest.mark.parametrize("way", sorted(WAYS_IN))
def test_no_code_runs_and_nobody_is_asked(evil: tuple[Path, Path], way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, mark = evil

    def ask(*_: Any) -> str:
        pytest.fail("somebody was asked")

    monkeypatch.setattr(builtins, "input", ask)
    # Whether it loads without the code, or is refused, depends on the file; `pytest.fail` is no `Exception`.
    with contextlib.suppress(Exception, SystemExit):
        WAYS_IN[way](str(folder))
    assert not mark.exists()


@pytest.mark.parametrize("loader", [AutoConfig, AutoTokenizer, AutoModelForImageTextToText])
def test_transformers_itself_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: Any) -> None:
    """The control: the same folder does run code where it is trusted, or somebody says yes."""
    folder, mark = tmp_path / "checkpoint", tmp_path / "mark"
    shutil.copytree(default_checkpoint(), folder)
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    in_config(folder)
    if loader is AutoTokenizer:
        in_tokenizer(folder)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    with contextlib.suppress(Exception):  # what it says when the code has run is its own affair
        loader.from_pretrained(str(folder))
    assert mark.exists()
