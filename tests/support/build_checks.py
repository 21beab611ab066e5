"""What every built checkpoint must do, for tests with tiny random models and with a real one."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from hf_videollm import save_checkpoint
from hf_videollm.data.records import make_record
from hf_videollm.training.collator import VideoDataCollator

QUESTION = "What is A dog?"
# Fields that make each design small.
SMALL: dict[str, dict[str, Any]] = {
    "pllava": {"pooling_shape": [2, 2, 2], "num_frames": 4},
    "videollama2": {"connector_depth": 1, "num_frames": 4},
    "videollama2_av": {"connector_depth": 1, "num_frames": 4},
    "iva": {},
    "ftfv": {"num_queries": 9, "num_tokens_per_frame": 4, "num_frames": 4},
    "linvt": {"num_layers": 1, "num_queries": [4, 2, 1], "num_selected_tokens": 24, "num_frames": 4},
}
# What the first training stage of each design trains.
NEW = {"linvt": "linvt", "iva": "connector"}


def load(folder: str | Path) -> tuple[Any, Any]:
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def ask(processor: Any, *blocks: dict[str, Any]) -> Any:
    """The inputs of one question."""
    content = [*blocks, {"type": "text", "text": QUESTION}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


@torch.no_grad()
def check_text(model: Any, processor: Any, llm_folder: Path, length: int = 8) -> str:
    """A question without media has the language model's own prompt, logits and answer, which is returned."""
    llm = AutoModelForCausalLM.from_pretrained(llm_folder, dtype=model.dtype)
    tokenizer = AutoTokenizer.from_pretrained(llm_folder)
    chat = [{"role": "user", "content": QUESTION}]
    own = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert processor.apply_chat_template(chat, add_generation_prompt=True) == text
    inputs = ask(processor)
    assert torch.equal(inputs["input_ids"], own["input_ids"])
    assert torch.equal(model(**own).logits, llm(**own).logits)
    expected = llm.generate(**own, max_new_tokens=length, do_sample=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=length), expected)
    answer: str = tokenizer.decode(expected[0, own["input_ids"].shape[1] :])
    return answer


def check_training(model: Any, processor: Any, clip: str) -> tuple[float, float]:
    """One step on the new part moves it and nothing else; loss before and after."""
    name = NEW.get(model.config.model_type, "connector")
    for key, weight in model.named_parameters():
        weight.requires_grad_(f"model.{name}." in key)
    trained = {key: weight for key, weight in model.named_parameters() if weight.requires_grad}
    before = {key: weight.detach().clone() for key, weight in model.named_parameters()}
    # A small step: at 1e-4, the first step on random parts may go too far (FTFV on SmolLM2: loss 3.9 -> 4.6).
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-5)
    batch = VideoDataCollator(processor)([make_record("1", clip, [("Colour?", "A red dog.")]).to_dict()])
    assert (batch["labels"] != -100).any()
    model.train()
    losses = []
    for _ in range(2):
        loss = model(**batch).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = {key for key, weight in model.named_parameters() if not torch.equal(weight, before[key])}
    assert moved
    assert moved <= trained.keys()
    model.eval()
    return losses[0], losses[1]


def check_saving(model: Any, processor: Any, clip: str, folder: Path) -> None:
    """Saved and loaded again, the model gives the same logits for a video, and the processor the same inputs."""
    inputs = ask(processor, {"type": "video", "path": clip})
    save_checkpoint(model, processor, folder)
    again, other = load(folder)
    repeated = ask(other, {"type": "video", "path": clip})
    assert all(torch.equal(inputs[key], repeated[key]) for key in inputs)
    with torch.no_grad():
        assert torch.equal(model.eval()(**inputs).logits, again(**repeated).logits)
