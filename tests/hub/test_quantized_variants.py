"""What people do with a variant: each preset, six designs.

A variant is loaded in a process without the package (remote code, `device_map="auto"`), asked there, and asked here
through the pipeline: the same logits and the same answer. A LoRA learns on it and is merged. The usual suite tries one
preset for each design; `-m slow` tries all pairs.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fresh_process import WITHOUT_PACKAGE, running_fresh
from peft import LoraConfig, get_peft_model
from quantizers import needs_torchao
from tiny_videollama2_checkpoint import write_videollama2
from transformers import AutoModelForImageTextToText, AutoProcessor

from hf_videollm import load_pipeline, save_checkpoint
from hf_videollm.hub.presets import PRESETS
from hf_videollm.hub.quantize import quantize

pytest.importorskip("bitsandbytes", reason="two presets are those of bitsandbytes")

DESIGNS = ("pllava-tiny", "videollama2", "videollama2-av-tiny", "ftfv-tiny", "iva-tiny", "linvt-tiny")
# Pairs that the usual suite tries.
CHOSEN = {
    ("pllava-tiny", "consumer-nf4"),
    ("videollama2", "a100-bf16"),
    ("videollama2-av-tiny", "consumer-int8"),
    ("ftfv-tiny", "a100-int8"),
    ("iva-tiny", "cpu-int8"),
    ("linvt-tiny", "consumer-nf4"),
}


def marks(design: str, name: str) -> list[Any]:
    wanted = [] if (design, name) in CHOSEN else [pytest.mark.slow]
    return [*wanted, *([needs_torchao] if PRESETS[name].package == "torchao" else [])]


PAIRS = [
    pytest.param(design, name, id=f"{design}-{name}", marks=marks(design, name))
    for design in DESIGNS
    for name, preset in PRESETS.items()
    if not preset.needs_gpu
]
TARGETS = r".*language_model\.layers\.\d+\.self_attn\.[qv]_proj"
QUESTION = "What colour is the shape?"
# Loads each folder that it reads the name of, asks about a video, and writes what it found.
FRESH = """
import json, sys, torch
from transformers import AutoModelForImageTextToText, AutoProcessor

for line in sys.stdin:
    folder, video, question = json.loads(line)
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, device_map="auto").eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    chat = [{"role": "user", "content": [{"type": "video", "path": video}, {"type": "text", "text": question}]}]
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.device, model.dtype)
    with torch.no_grad():
        logits = model(**inputs).logits[0, -1].float()
    answer = model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, inputs["input_ids"].shape[1]:]
    report = {
        "module": type(model).__module__,
        "logits": logits.tolist(),
        "answer": processor.decode(answer, skip_special_tokens=True),
    }
    print(json.dumps(report), flush=True)
"""


@pytest.fixture(scope="module")
def ask_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path, str], dict[str, Any]]]:
    """Asks a checkpoint in a process without the package. All tests share the process, as starting it takes longest."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with running_fresh(WITHOUT_PACKAGE + FRESH, cache=folder) as process:

        def ask(checkpoint: Path, video: str) -> dict[str, Any]:
            print(json.dumps([str(checkpoint), video, QUESTION]), file=process.stdin, flush=True)
            line = process.stdout.readline()
            assert line, (folder / "stderr").read_text()[-3000:]
            return dict(json.loads(line))

        yield ask


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A variant of a checkpoint, written once."""
    base = tmp_path_factory.mktemp("variants")

    def write(design: str, name: str) -> Path:
        folder = base / f"{design}-{name}"
        if not folder.exists():
            source: Any = design
            if design == "videollama2":
                source = base / design
                if not source.exists():
                    write_videollama2(source)
            quantize(source, folder, preset=name)
        return folder

    return write


def prompt(processor: Any, model: Any, video: str) -> Any:
    chat = [{"role": "user", "content": [{"type": "video", "path": video}, {"type": "text", "text": QUESTION}]}]
    return processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.device, model.dtype)


@pytest.mark.parametrize(("design", "name"), PAIRS)
def test_a_variant_answers_the_same_everywhere(
    design: str,
    name: str,
    variant: Callable[[str, str], Path],
    clips: list[str],
    ask_elsewhere: Callable[[Path, str], dict[str, Any]],
) -> None:
    folder = variant(design, name)
    report = ask_elsewhere(folder, clips[0])
    assert report["module"].startswith("transformers_modules.")
    pipe = load_pipeline(folder)
    with torch.no_grad():
        logits = pipe.model(**prompt(pipe.processor, pipe.model, clips[0])).logits[0, -1].float()
    assert logits.tolist() == report["logits"]
    answer = pipe(clips[0], text=QUESTION, return_full_text=False, do_sample=False, max_new_tokens=6)
    assert answer[0]["generated_text"].strip() == report["answer"].strip()


@pytest.mark.parametrize(("design", "name"), [pair for pair in PAIRS if pair.values[1] != "cpu-int8"])
def test_a_lora_learns_on_a_variant_and_is_merged(
    design: str, name: str, variant: Callable[[str, str], Path], clips: list[str], tmp_path: Path
) -> None:
    folder = variant(design, name)
    model = AutoModelForImageTextToText.from_pretrained(folder, device_map="auto")
    processor = AutoProcessor.from_pretrained(folder)
    inputs = prompt(processor, model, clips[0])
    before = last_logits(model, inputs)
    # Layers whose widths are multiples of 64, see docs/quantized.md.
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=TARGETS))
    trained = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    wanted = torch.tensor([int(before.argmin())])
    losses = []
    for _ in range(4):
        loss = torch.nn.functional.cross_entropy(tuned(**inputs).logits[:, -1].float(), wanted)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    learned = last_logits(tuned, inputs)
    moved = (learned - before).norm()
    assert moved > 0
    # int8 layers round the merged weights once more, and 4-bit layers a lot.
    merged = tuned.merge_and_unload()
    found = last_logits(merged, inputs)
    assert (found - learned).norm() < 0.7 * (before.norm() if "nf4" in name else moved)
    save_checkpoint(merged, processor, tmp_path / "merged")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    assert torch.equal(last_logits(again, inputs), found)


@needs_torchao
@pytest.mark.slow
def test_no_lora_learns_on_rounded_activations(variant: Callable[[str, str], Path], clips: list[str]) -> None:
    """Rounding passes no gradient; the error is torch's own."""
    folder = variant("iva-tiny", "cpu-int8")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    inputs = prompt(AutoProcessor.from_pretrained(folder), model, clips[0])
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=TARGETS))
    with pytest.raises(RuntimeError, match="does not require grad"):
        tuned(**inputs).logits.sum().backward()


def last_logits(model: Any, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs).logits[0, -1].float()
