"""The reference tensors of tests/fixtures/reference, and what their tests share.

tools/reference_tensors computed them without this package; its README says what they cover.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "reference"
# The files hold float32. Where a module computes in float64 all the way, only their rounding is left.
ROUNDING = {"rtol": 1e-7, "atol": 1e-12}
# Where a module (or transformers) computes a step in float32 whatever the weights are in; values are of size 1 to 10.
FLOAT32_STEPS = {"rtol": 1e-5, "atol": 5e-6}


class Reference:
    """One file: tensors in float64, and the sizes that they were made with."""

    def __init__(self, name: str) -> None:
        with safe_open(FOLDER / f"{name}.safetensors", framework="pt") as file:
            self.tensors = {key: file.get_tensor(key).double() for key in file.keys()}  # noqa: SIM118 (no dict)
            self.sizes: dict[str, Any] = json.loads(file.metadata()["sizes"])

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def weights(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """Weights whose names begin with `prefix`, without it."""
        start = f"weights.{prefix}"
        return {name.removeprefix(start): tensor for name, tensor in self.tensors.items() if name.startswith(start)}


def is_close(found: torch.Tensor, expected: torch.Tensor, tolerance: Mapping[str, float]) -> bool:
    return found.shape == expected.shape and torch.allclose(found.double(), expected, **tolerance)


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: Mapping[str, float]) -> None:
    torch.testing.assert_close(found.detach().double(), expected, **tolerance)


@torch.no_grad()
def unnoticed_changes(module: nn.Module, agrees: Callable[[], bool]) -> set[str]:
    """The control of a comparison: parameters that can be changed, and it still says that all agrees."""
    assert agrees(), "the comparison must hold before anything is changed"
    unnoticed = set()
    for name, parameter in module.named_parameters():
        kept = parameter.clone()
        # Each entry another amount: most layers would cancel one amount for all.
        parameter.add_(0.2 * torch.linspace(-1, 1.5, parameter.numel()).view_as(parameter))
        if agrees():
            unnoticed.add(name)
        parameter.copy_(kept)
    assert agrees(), "the parameters are what they were"
    return unnoticed


class RecordedTower(nn.Module):
    """In place of a vision tower: gives recorded hidden states as its last layer but one, and nonsense as all others.

    The pixels of a frame (`numbered_frames`) hold its number, so that the states follow the frames wherever they go.
    """

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("states", states)
        self.device, self.dtype = states.device, states.dtype

    def forward(self, pixel_values: torch.Tensor, **options: Any) -> BaseModelOutputWithPooling:
        chosen = self.states[pixel_values[:, 0, 0, 0].long()]
        other = torch.full_like(chosen, 100.0)
        return BaseModelOutputWithPooling(
            last_hidden_state=other, pooler_output=other[:, 0], hidden_states=(other, chosen, other)
        )


def numbered_frames(videos: int, frames: int, side: int) -> torch.Tensor:
    """`(videos, frames, 3, side, side)`, each frame filled with its number among all frames."""
    numbers = torch.arange(videos * frames, dtype=torch.float64).view(videos, frames, 1, 1, 1)
    return numbers.expand(-1, -1, 3, side, side)


def llama_config(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The language model of a reference, as a configuration of transformers."""
    return {
        "model_type": "llama",
        "hidden_size": sizes["width"],
        "intermediate_size": sizes["inner"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "num_key_value_heads": sizes["kv_heads"],
        "vocab_size": sizes["vocab"],
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }


def clip_config(width: int, grid: int) -> dict[str, Any]:
    """A vision tower of `grid` x `grid` patches of 4 x 4 pixels, of which the tests use the sizes alone."""
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": 8,
        "image_size": 4 * grid,
        "patch_size": 4,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }


def load_language_model(model: nn.Module, reference: Reference) -> None:
    """Give a model with a head the language model of a reference, all of it."""
    weights = reference.weights()
    names = {name: f"model.language_model.{name}" for name in weights if name.startswith(("layers.", "norm."))}
    names |= {"embed_tokens.weight": "model.language_model.embed_tokens.weight", "lm_head.weight": "lm_head.weight"}
    states = {ours: weights[name] for name, ours in names.items() if ".lora_" not in name}
    missing, unexpected = model.load_state_dict(states, strict=False)
    assert not unexpected
    assert not [name for name in missing if "language_model" in name or "lm_head" in name]


def expand(prompt: list[int], counts: Mapping[int, int]) -> torch.Tensor:
    """`(1, length)`: each placeholder as often as it stands for a vector."""
    return torch.tensor([[token for token in prompt for _ in range(counts.get(token, 1))]])
