"""What is done with quantized models: LinVT around a quantized image-LLM, pipelines, remote code, `info`."""

from pathlib import Path

import pytest
import torch
from fresh_process import WITHOUT_PACKAGE, run_fresh
from quantizers import QUANTIZERS, each_quantizer
from safetensors.torch import load_file
from tiny_linvt import IMAGE, MODULE
from torch import nn
from transformers import AutoConfig, AutoProcessor, pipeline

from hf_videollm import LinVTForCausalLM, PllavaForConditionalGeneration, default_checkpoint, save_checkpoint
from hf_videollm.costs.info import describe_checkpoint
from hf_videollm.inference import load_pipeline

pytest.importorskip("bitsandbytes", reason="quantized loading is tested with bitsandbytes")

CHOSEN = ("int8", "nf4", "torchao-int8")
QUESTION = "What colour is the shape?"
# In a process without the package: what is quantized, and the answer before and after it is saved.
REMOTE = """
import json, sys, torch
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

folder, again, video, question = sys.argv[1:5]
report = {}
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
chat = [{"role": "user", "content": [{"type": "video", "path": video}, {"type": "text", "text": question}]}]
inputs = processor.apply_chat_template(
    chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
model = AutoModelForImageTextToText.from_pretrained(
    folder, trust_remote_code=True, quantization_config=BitsAndBytesConfig(load_in_8bit=True)
)
report["module"] = type(model).__module__
linear = {name: type(module).__name__ for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
report["kinds"] = sorted({(kind, "language_model." in name) for name, kind in linear.items()})
model.save_pretrained(again)
reloaded = AutoModelForImageTextToText.from_pretrained(again, trust_remote_code=True)
with torch.no_grad():
    report["equal"] = torch.equal(model(**inputs).logits, reloaded(**inputs).logits)
"""


def kinds_of_layers(model: nn.Module) -> dict[bool, set[bool]]:
    """Inside the language model or not -> whether its linear layers are quantized."""
    kinds: dict[bool, set[bool]] = {True: set(), False: set()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            kinds["language_model." in name].add(type(module.weight) is not nn.Parameter)
    return kinds


def linvt_logits(model: LinVTForCausalLM) -> torch.Tensor:
    ids = torch.tensor([[1, 5, *[IMAGE] * sum(MODULE["num_queries"]), 6, 7]])
    frames = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(
            input_ids=ids,
            mm_token_type_ids=(ids == IMAGE).long() * 2,
            pixel_values_videos=frames,
            num_video_frames=torch.tensor([4]),
        ).logits


@each_quantizer(CHOSEN)
def test_linvt_before_an_image_llm_that_is_quantized(quantizer: str, tiny_image_llm: str, tmp_path: Path) -> None:
    model = LinVTForCausalLM.from_image_llm(
        tiny_image_llm, linvt_config=MODULE, quantization_config=QUANTIZERS[quantizer]()
    )
    assert kinds_of_layers(model) == {True: {True}, False: {False}}
    before = linvt_logits(model)
    # The whole, which says itself what is quantized.
    model.save_pretrained(tmp_path / "whole")
    again = LinVTForCausalLM.from_pretrained(tmp_path / "whole")
    assert kinds_of_layers(again) == kinds_of_layers(model)
    assert torch.equal(linvt_logits(again), before)
    # LinVT alone, which goes before the image-LLM quantized in any way.
    model.save_pretrained(tmp_path / "adapter", adapter_only=True)
    assert {name.split(".")[1] for name in load_file(tmp_path / "adapter" / "model.safetensors")} == {"linvt"}
    assert getattr(AutoConfig.from_pretrained(tmp_path / "adapter"), "quantization_config", None) is None
    options = {"quantization_config": QUANTIZERS[quantizer]()}
    assert torch.equal(linvt_logits(LinVTForCausalLM.from_adapter(tmp_path / "adapter", **options)), before)
    plain = LinVTForCausalLM.from_adapter(tmp_path / "adapter")
    assert kinds_of_layers(plain) == {True: {False}, False: {False}}
    assert not torch.equal(linvt_logits(plain), before), "the control: quantizing changes what is computed"


def test_pipelines_and_info_of_a_quantized_checkpoint(clips: list[str], tmp_path: Path) -> None:
    source = default_checkpoint("pllava-tiny")
    model = PllavaForConditionalGeneration.from_pretrained(source, quantization_config=QUANTIZERS["nf4"]())
    folder = save_checkpoint(model, AutoProcessor.from_pretrained(source), tmp_path / "quantized")
    options = {"return_full_text": False, "do_sample": False, "max_new_tokens": 8}
    on_load = pipeline("video-text-to-text", str(source), model_kwargs={"quantization_config": QUANTIZERS["nf4"]()})
    assert kinds_of_layers(on_load.model) == {True: {True}, False: {False}}
    pipes = [on_load, pipeline("video-text-to-text", str(folder)), load_pipeline(folder)]
    answers = {pipe(clips[0], text=QUESTION, **options)[0]["generated_text"] for pipe in pipes}
    assert len(answers) == 1
    plain, quantized = describe_checkpoint(source), describe_checkpoint(folder)
    assert quantized.parameters == plain.parameters
    assert (plain.quantization, quantized.quantization) == (None, "bitsandbytes 4-bit (nf4)")


def test_remote_code_quantizes_the_same_parts(tiny_linvt_checkpoint: str, clips: list[str], tmp_path: Path) -> None:
    again = str(tmp_path / "again")
    report = run_fresh(WITHOUT_PACKAGE + REMOTE, tiny_linvt_checkpoint, again, clips[0], QUESTION, cache=tmp_path)
    assert report["module"].startswith("transformers_modules.")
    assert report["kinds"] == [["Linear", False], ["Linear8bitLt", True]]
    assert report["equal"]
