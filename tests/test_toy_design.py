"""A new design is its own files and one row: a toy one passes what every design must, and no other file knows it.

Its files lie in tests/support/toy_design as they would lie in `hf_videollm/models`.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import factory
import pytest
import tiny_checkpoint
import torch
from fresh_process import WITHOUT_PACKAGE, run_fresh
from invariant_tests import InvariantTests
from toy_design.row import ROW
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPImageProcessor

import hf_videollm
from hf_videollm import models
from hf_videollm.costs.flops import describe_flops
from hf_videollm.costs.info import describe_checkpoint
from hf_videollm.designs import DESIGNS
from hf_videollm.synthetic.clips import generate_dataset

TOY = Path(__file__).parent / "support" / "toy_design"
MAX_LINES = 150
QUESTION = "What moves?"


def put_among_models() -> Path:
    """Let the toy's files be found in `hf_videollm.models`, beside the files that they import."""
    folder = Path(tempfile.mkdtemp(prefix="models_with_toy_"))
    for file in Path(models.__file__).parent.glob("*.py"):
        (folder / file.name).symlink_to(file)
    for file in TOY.glob("*_mean.py"):
        shutil.copy(file, folder)
    models.__path__.append(str(folder))
    return folder


FOLDER = put_among_models()
TOWERS = {"vision_config": factory.VISION_TOWERS["clip_vision_model"], "text_config": factory.TEXT_TOWERS["llama"]}
CASE = factory.DesignCase(
    name="mean",
    model_class=ROW.load("generating_model"),
    config={**TOWERS, "image_token_id": factory.IMAGE, "video_token_id": factory.VIDEO},
)


@pytest.fixture(scope="module", autouse=True)
def _row() -> Iterator[None]:
    """The row is in the table while these tests run."""
    hf_videollm.register_design(ROW)
    yield
    del DESIGNS[ROW.name]
    models.__path__.remove(str(FOLDER))
    shutil.rmtree(FOLDER)


class TestToy(InvariantTests):
    cases = [CASE]  # noqa: RUF012


def make_model(seed: int = 0) -> Any:
    """A random model that fits the processor of `make_processor`."""
    fields = tiny_checkpoint.make_config().to_dict()
    kept = ("vision_config", "text_config", "image_token_id", "video_token_id", "num_frames")
    torch.manual_seed(seed)
    model = ROW.load("generating_model")(ROW.load("config")(**{name: fields[name] for name in kept})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    model.generation_config.suppress_tokens = list(range(len(tiny_checkpoint.SPECIAL) + 2))
    return model


def make_processor() -> Any:
    side = {"height": tiny_checkpoint.SIDE, "width": tiny_checkpoint.SIDE}
    size = {"size": {"shortest_edge": tiny_checkpoint.SIDE}, "crop_size": side}
    return ROW.load("processor")(
        image_processor=CLIPImageProcessor(**size),
        tokenizer=tiny_checkpoint.make_tokenizer(),
        video_processor=ROW.load("video_processor")(**size, num_frames=tiny_checkpoint.NUM_FRAMES),
    )


@pytest.fixture(scope="module")
def checkpoint(_row: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_videollm.save_checkpoint(make_model(), make_processor(), tmp_path_factory.mktemp("toy") / "checkpoint")


def test_it_is_small() -> None:
    assert sum(len(file.read_text().splitlines()) for file in TOY.glob("*.py")) < MAX_LINES


def test_nobody_else_knows_it() -> None:
    """A name of the toy, or of another design of the table, in the package's files; the second is the control."""
    files = [file.read_text() for file in Path(hf_videollm.__file__).parent.rglob("*.py")]
    assert not any("MeanConfig" in text or "MeanProcessor" in text for text in files)
    assert any("PllavaConfig" in text for text in files)


def test_a_processor_of_another_design_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tokens of 4 frames is 16, the model's 4"):
        hf_videollm.save_checkpoint(make_model(), tiny_checkpoint.make_processor(), tmp_path / "out")


def test_another_design_of_its_name_is_refused() -> None:
    with pytest.raises(ValueError, match="There is a design 'pllava' already"):
        hf_videollm.register_design(hf_videollm.Design(**{**vars(ROW), "name": "pllava"}))
    assert DESIGNS["pllava"].title == "PLLaVA"


def ask(pipe: Any, clip: str) -> str:
    options = {"do_sample": False, "max_new_tokens": 8}
    return pipe(clip, text=QUESTION, return_full_text=False, generate_kwargs=options)[0]["generated_text"]


REMOTE = """
import json, sys
from transformers import pipeline
pipe = pipeline("video-text-to-text", model=sys.argv[1], trust_remote_code=True)
greedy = {"do_sample": False, "max_new_tokens": 8}
answers = pipe(sys.argv[2], text=sys.argv[3], return_full_text=False, generate_kwargs=greedy)
report = {"text": answers[0]["generated_text"], "module": type(pipe.model).__module__}
"""


def test_one_answer_through_pipeline_remote_code_and_command_line(
    checkpoint: Path, clips: list[str], tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    pipe = hf_videollm.load_pipeline(checkpoint)
    assert type(pipe.model) is ROW.load("generating_model")
    answer = ask(pipe, clips[0])
    # The control: another model says something else.
    pipe.model = make_model(1)
    assert ask(pipe, clips[0]) != answer
    remote = run_fresh(WITHOUT_PACKAGE + REMOTE, str(checkpoint), clips[0], QUESTION, cache=tmp_path)
    assert remote["module"].startswith("transformers_modules.")
    assert remote["text"] == answer
    code, printed, _ = cli("ask", clips[0], QUESTION, "--model", str(checkpoint), "--max-new-tokens", "8", "--json")
    assert code == 0
    assert json.loads(printed)["answer"] == answer.strip()


def test_info_and_flops(checkpoint: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    info = describe_checkpoint(checkpoint)
    assert (info.design, info.tokens_per_video, info.tokens_per_image) == ("MeanForConditionalGeneration", 4, 1)
    parameters = sum(weight.numel() for weight in AutoModelForImageTextToText.from_pretrained(checkpoint).parameters())
    assert info.parameters["total"] == parameters
    flops = describe_flops(checkpoint)
    config = make_model().config
    # One projection of each frame: 2 x multiply-adds.
    assert flops.parts["connector"].weights == 2 * 4 * config.vision_config.hidden_size * config.text_config.hidden_size
    for command in ("info", "flops"):
        code, printed, _ = cli(command, str(checkpoint), "--json")
        assert code == 0
        assert json.loads(printed)["source"] == str(checkpoint)


def test_it_is_trained(checkpoint: Path, tmp_path: Path) -> None:
    from hf_videollm.training.sft import Recipe, run_sft

    records = generate_dataset(tmp_path / "clips", 8, kind="motion", progress=False)
    arguments = {
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 4,
        "max_steps": 8,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    model, processor = (cls.from_pretrained(checkpoint) for cls in (AutoModelForImageTextToText, AutoProcessor))
    before = model.model.connector.projection.weight.detach().clone()
    trainer = run_sft(Recipe(records=str(records), arguments=arguments), model, processor)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    assert not torch.equal(before, model.model.connector.projection.weight)
