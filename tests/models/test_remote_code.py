"""The same checkpoint through three doors: installed package, remote code, pipeline with either; in fresh processes."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fresh_process import WITHOUT_PACKAGE, run_fresh
from transformers import AutoConfig, AutoModelForImageTextToText, pipeline

import hf_videollm

QUESTION = "What moves?"

# Common to both processes: every way to the tokens of one answer.
ASK = """
import json, sys
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCausalLM
from transformers import AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor, AutoVideoProcessor
from transformers import pipeline

folder, video, question, trust = sys.argv[1], sys.argv[2], sys.argv[3], {"trust_remote_code": True}
if LOCAL:
    trust = {}
greedy = {"do_sample": False, "max_new_tokens": 8}
chat = [{"role": "user", "content": [{"type": "video", "path": video}, {"type": "text", "text": question}]}]
report = {}

processor = AutoProcessor.from_pretrained(folder, **trust)
inputs = processor.apply_chat_template(
    chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
report["inputs"] = sorted(inputs)
for auto_class in (AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoModelForCausalLM):
    model = auto_class.from_pretrained(folder, **trust)
    tokens = model.generate(**inputs, **greedy)[0, inputs["input_ids"].shape[1] :]
    report[auto_class.__name__] = tokens.tolist()
headless = AutoModel.from_pretrained(folder, **trust)
with torch.no_grad():
    hidden = headless(**inputs).last_hidden_state
    report["headless"] = int(model.lm_head(hidden)[0, -1].argmax()), int(model(**inputs).logits[0, -1].argmax())
report["config"] = type(AutoConfig.from_pretrained(folder, **trust)).__module__
report["video_processor"] = type(AutoVideoProcessor.from_pretrained(folder, **trust)).__module__
if "input_features" in inputs:
    report["feature_extractor"] = type(AutoFeatureExtractor.from_pretrained(folder, **trust)).__module__
pipe = pipeline("video-text-to-text", model=folder, **trust)
report["pipeline"] = type(pipe).__module__
report["text"] = pipe(video, text=question, return_full_text=False, generate_kwargs=greedy)[0]["generated_text"]
"""

RESAVE = """
# With a single custom task the pipeline is inferred; and what is saved from remote code is complete again.
report["inferred"] = type(pipeline(model=folder, **trust)).__name__
again = sys.argv[4]
AutoModelForImageTextToText.from_pretrained(folder, **trust).save_pretrained(again)
processor.save_pretrained(again)
pipe = pipeline("video-text-to-text", model=again, **trust)
report["resaved"] = pipe(video, text=question, return_full_text=False, generate_kwargs=greedy)[0]["generated_text"]
"""


@pytest.fixture(
    scope="module",
    params=[
        "tiny_checkpoint",
        "tiny_av_checkpoint",
        "tiny_ftfv_checkpoint",
        "tiny_iva_checkpoint",
        "tiny_linvt_checkpoint",
    ],
)
def checkpoint(request: pytest.FixtureRequest) -> str:
    """A design that sees, one that also hears, one with a vision tower of ours, one with hooks on its language model,
    and one around a whole image-LLM.
    """
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def remote(checkpoint: str, clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("remote")
    again = str(folder / "again")
    return run_fresh(WITHOUT_PACKAGE + ASK + RESAVE, checkpoint, clips[0], QUESTION, again, cache=folder)


@pytest.fixture(scope="module")
def local(checkpoint: str, clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    code = "import hf_videollm\nLOCAL = True\n" + ASK
    return run_fresh(code, checkpoint, clips[0], QUESTION, cache=tmp_path_factory.mktemp("local"))


def test_each_process_used_its_own_classes(remote: dict[str, Any], local: dict[str, Any]) -> None:
    for part in {"config", "video_processor", "pipeline", "feature_extractor"} & set(remote):
        assert remote[part].startswith("transformers_modules.")
        assert local[part].startswith("hf_videollm.models.")


def test_same_tokens_through_every_door(remote: dict[str, Any], local: dict[str, Any]) -> None:
    auto_classes = ("AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForCausalLM")
    answers = {tuple(report[name]) for report in (remote, local) for name in auto_classes}
    assert len(answers) == 1
    assert len({*answers.pop()}) > 1  # not one token over and over
    assert remote["text"] == local["text"]
    assert remote["inputs"] == local["inputs"]
    assert remote["headless"] == local["headless"]
    assert remote["headless"][0] == remote["headless"][1]


def test_the_video_matters(checkpoint: str, clips: list[str]) -> None:
    """Control of the test above."""
    pipe = pipeline("video-text-to-text", model=checkpoint)
    texts = {
        pipe(clip, text=QUESTION, return_full_text=False, do_sample=False, max_new_tokens=8)[0]["generated_text"]
        for clip in clips
    }
    assert len(texts) > 1


def test_task_is_inferred_and_resaved_folder_is_complete(remote: dict[str, Any]) -> None:
    assert remote["inferred"] == "VideoTextToTextPipeline"
    assert remote["resaved"] == remote["text"]


def test_without_trust_remote_code_is_refused(tiny_checkpoint: str, tmp_path: Path) -> None:
    code = (
        WITHOUT_PACKAGE
        + """
import json
from transformers import pipeline
try:
    pipeline("video-text-to-text", model=sys.argv[1], trust_remote_code=False)
    report = {"refused": False}
except ValueError as error:
    report = {"refused": "trust_remote_code" in str(error)}
"""
    )
    assert run_fresh(code, tiny_checkpoint, cache=tmp_path)["refused"]


def test_local_classes_win_even_with_the_flag(tiny_checkpoint: str) -> None:
    pipe = pipeline("video-text-to-text", model=tiny_checkpoint, trust_remote_code=True)
    assert type(pipe) is hf_videollm.VideoTextToTextPipeline
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint, trust_remote_code=True)
    assert type(model) is hf_videollm.PllavaForConditionalGeneration
    assert not hasattr(AutoConfig.from_pretrained(tiny_checkpoint), "custom_pipelines")


def test_what_hears_travels_too(tiny_av_checkpoint: str) -> None:
    written = set(os.listdir(tiny_av_checkpoint))
    config = json.loads(Path(tiny_av_checkpoint, "config.json").read_text())
    assert set(config["auto_map"]) == set(hf_videollm.VideoLlama2AVConfig.auto_classes)
    for reference in config["auto_map"].values():
        assert f"{reference.split('.')[0]}.py" in written
    for name in ("modeling_beats", "configuration_beats", "media_audio", "media_audio_windows", "videollama2_regstage"):
        assert f"{name}.py" in written


def test_audio_encoder_alone_travels(tmp_path: Path) -> None:
    folder = tmp_path / "beats"
    model = hf_videollm.BeatsModel(
        hf_videollm.BeatsConfig(
            hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=96, patch_embedding_dim=32
        )
    )
    model.save_pretrained(folder)
    hf_videollm.BeatsFeatureExtractor(pad_with_silence=False).save_pretrained(folder)
    code = """
import json
import torch
from transformers import AutoFeatureExtractor, AutoModel
extractor = AutoFeatureExtractor.from_pretrained(sys.argv[1], trust_remote_code=True)
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
wave = torch.sin(torch.arange(16000) / 10)
with torch.no_grad():
    features = extractor(wave.numpy(), return_tensors="pt")
    output = model(features["input_features"], attention_mask=features["input_features_mask"])
report = {"module": type(model).__module__, "sum": float(output.last_hidden_state.abs().sum())}
"""
    report = run_fresh(WITHOUT_PACKAGE + code, str(folder), cache=tmp_path)
    assert report["module"].startswith("transformers_modules.")
    wave = torch.sin(torch.arange(16000) / 10)
    features = hf_videollm.BeatsFeatureExtractor.from_pretrained(folder)(wave.numpy(), return_tensors="pt")
    with torch.no_grad():
        output = model.eval()(features["input_features"], attention_mask=features["input_features_mask"])
    assert report["sum"] == pytest.approx(float(output.last_hidden_state.abs().sum()), rel=1e-5)


def test_the_folder_holds_everything(tiny_checkpoint: str) -> None:
    written = set(os.listdir(tiny_checkpoint))
    assert {
        "config.json",
        "model.safetensors",
        "generation_config.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "configuration_pllava.py",
        "modeling_pllava.py",
        "processing_pllava.py",
        "video_processing_pllava.py",
        "pipeline_video_text_to_text.py",
    } <= written
    config = json.loads(Path(tiny_checkpoint, "config.json").read_text())
    assert set(config["auto_map"]) == set(hf_videollm.PllavaConfig.auto_classes)
    assert config["custom_pipelines"]["video-text-to-text"]["impl"].startswith("pipeline_video_text_to_text.")
    for reference in config["auto_map"].values():
        assert f"{reference.split('.')[0]}.py" in written


def test_nothing_half_written(tiny_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that fails half-way leaves neither the folder nor a temporary one."""
    model = hf_videollm.PllavaForConditionalGeneration.from_pretrained(tiny_checkpoint)
    processor = hf_videollm.PllavaProcessor.from_pretrained(tiny_checkpoint)

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(hf_videollm.PllavaProcessor, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        hf_videollm.save_checkpoint(model, processor, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_occupied_folder_is_refused(tiny_checkpoint: str, tmp_path: Path) -> None:
    model = hf_videollm.PllavaForConditionalGeneration.from_pretrained(tiny_checkpoint)
    processor = hf_videollm.PllavaProcessor.from_pretrained(tiny_checkpoint)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        hf_videollm.save_checkpoint(model, processor, tmp_path)
    hf_videollm.save_checkpoint(model, processor, tmp_path, overwrite=True)
    assert not (tmp_path / "notes.txt").exists()
    assert (tmp_path / "config.json").exists()


def test_half_a_checkpoint_is_not_written(tiny_checkpoint: str, tmp_path: Path) -> None:
    model = hf_videollm.PllavaForConditionalGeneration.from_pretrained(tiny_checkpoint)
    processor = hf_videollm.PllavaProcessor.from_pretrained(tiny_checkpoint)
    with pytest.raises(TypeError, match="TokenizersBackend is no processor"):
        hf_videollm.save_checkpoint(model, processor.tokenizer, tmp_path / "out")
    processor.pooling_shape = [4, 3, 3]
    with pytest.raises(ValueError, match="the model's 16"):
        hf_videollm.save_checkpoint(model, processor, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_files_are_as_readable_as_the_user_wants(tiny_checkpoint: str) -> None:
    """safetensors writes private files; a published folder is for everybody whom the umask allows."""
    mask = os.umask(0)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in Path(tiny_checkpoint).iterdir()} == {0o666 & ~mask}


def test_a_damaged_weight_file_is_named(tiny_checkpoint: str, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "damaged")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(hf_videollm.CheckpointError, match=r"model\.safetensors is truncated or damaged"):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_a_processor_of_another_model_is_refused(tiny_checkpoint: str, tmp_path: Path) -> None:
    model = hf_videollm.PllavaForConditionalGeneration.from_pretrained(tiny_checkpoint)
    processor = hf_videollm.PllavaProcessor.from_pretrained(tiny_checkpoint)
    processor.pooling_shape = [4, 3, 3]
    with pytest.raises(ValueError, match="tokens of 4 frames is 36, the model's 16"):
        hf_videollm.save_checkpoint(model, processor, tmp_path / "out")


def test_the_working_folder_is_never_replaced(
    tiny_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = hf_videollm.PllavaForConditionalGeneration.from_pretrained(tiny_checkpoint)
    processor = hf_videollm.PllavaProcessor.from_pretrained(tiny_checkpoint)
    (tmp_path / "keep.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    for folder in (".", "..", str(Path.home())):
        with pytest.raises(FileExistsError, match="home or the working folder"):
            hf_videollm.save_checkpoint(model, processor, folder, overwrite=True)
    assert (tmp_path / "keep.txt").read_text() == "mine"
