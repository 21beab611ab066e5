"""What a CPU takes besides the tensors of a model: copies in kernels, and pages of weights that were read."""

import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from hf_videollm.costs.cpu_bytes import CpuBytes, attention_bytes, process_bytes
from hf_videollm.costs.live_bytes import FusedAttention
from hf_videollm.costs.memory import predict_memory
from hf_videollm.hub.checkpoint import bundled_checkpoints, default_checkpoint
from hf_videollm.inference import load_design_config

MIB = 2**20


def count(module: nn.Module, *inputs: torch.Tensor) -> CpuBytes:
    with torch.no_grad(), CpuBytes([*module.parameters(), *module.buffers()], inputs) as counter:
        module(*inputs)
    return counter


def on_meta(make: Any) -> Any:
    with torch.device("meta"):
        return make()


def test_weights_count_when_they_are_read() -> None:
    """Two layers of 4 MiB: the second is not in memory while the first one runs."""
    layers = on_meta(lambda: nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.Linear(1024, 1024, bias=False)))
    counter = count(layers, torch.empty(1024, 1024, device="meta"))
    assert counter.read == 8 * MIB
    # Both results, and both weights, are there at the end; in a later run no less.
    assert counter.first_peak == counter.later_peak == 16 * MIB
    wide = on_meta(lambda: nn.Sequential(nn.Linear(1024, 8192, bias=False), nn.Linear(8192, 1024, bias=False)))
    counter = count(wide, torch.empty(1024, 1024, device="meta"))
    assert counter.first_peak == counter.later_peak == (64 + 36) * MIB
    # A layer that is not called is not read.
    counter = CpuBytes(wide.parameters())
    with torch.no_grad(), counter:
        wide[1](torch.empty(1, 8192, device="meta"))
    assert counter.read == 32 * MIB


def test_a_first_run_is_smaller_if_the_largest_weight_comes_late() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(1024, 4096, bias=False)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            large = torch.cat([rows] * 16)
            small = large[:1].clone()
            del large
            return self.head(small)

    counter = count(on_meta(Late), torch.empty(1024, 1024, device="meta"))
    assert counter.first_peak == 64 * MIB + 4096
    assert counter.later_peak == 80 * MIB + 4096


def test_the_heap_keeps_small_tensors_that_were_freed() -> None:
    def run(rows: int) -> CpuBytes:
        with CpuBytes([]) as counter:
            first = torch.empty(rows, 2**18, device="meta")
            del first
            torch.empty(100, 2**18, device="meta").view(-1)
        return counter

    # 8 MiB stay beside the 100 MiB that come later; 40 MiB are returned to the system.
    assert run(8).first_peak == 108 * MIB
    assert run(40).first_peak == 100 * MIB


def test_rows_of_an_embedding_that_no_prompt_uses_are_never_read() -> None:
    table = on_meta(lambda: nn.Embedding(10_000, 1024))
    assert count(table, torch.arange(20).repeat(1, 3)).read == 20 * 64 * 2**10
    assert count(table, torch.arange(5_000).unsqueeze(0)).read == 10_000 * 4096


@pytest.mark.parametrize("in_channels", [3, 64])
def test_convolutions_copy_their_weight_and_pixels(in_channels: int) -> None:
    conv = on_meta(lambda: nn.Conv2d(in_channels, 128, 4, stride=4, bias=False))
    pixels = torch.empty(8, in_channels, 64, 64, device="meta")
    result = 8 * 128 * 16 * 16 * 4
    copies = conv.weight.nbytes + (pixels.nbytes if in_channels > 4 else result)
    assert count(conv, pixels).most_beside_weights == result + copies
    last = pixels.to(memory_format=torch.channels_last)
    assert count(conv, last).most_beside_weights == result + 2 * conv.weight.nbytes


def test_attention_turns_a_mask_into_numbers_and_reorders_half_precision() -> None:
    query = torch.empty(1, 2, 10, 8, device="meta")
    mask = torch.ones(1, 1, 10, 10, dtype=torch.bool, device="meta")
    assert attention_bytes(query, query, query, None) == 0
    assert attention_bytes(query, query, query, mask) == 400
    half = query.bfloat16()
    assert attention_bytes(half, half, half, mask) == 200 + 2 * half.nbytes
    seen: list[Any] = []
    with FusedAttention(lambda *given: seen.append(given)):
        functional.scaled_dot_product_attention(query, query, query, attn_mask=mask)
    assert seen[0][3] is mask


@pytest.mark.parametrize("name", bundled_checkpoints())
def test_the_answers_of_a_process_lie_between_the_weights_and_all_tensors(name: str) -> None:
    predicted = predict_memory(load_design_config(default_checkpoint(name)), dtype=torch.float32)
    assert predicted.weights <= predicted.cpu_first_answer <= predicted.cpu_later_answers
    # Beyond the tensors, there are copies in kernels; below them, rows of the embedding that are not read.
    assert 0.7 * predicted.total < predicted.cpu_later_answers < 1.3 * predicted.total
    converted = predict_memory(load_design_config(default_checkpoint(name)), dtype=torch.float32, is_mapped=False)
    assert converted.cpu_first_answer == converted.cpu_later_answers >= converted.total


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_memory_of_this_process_is_known() -> None:
    kept = torch.ones(64 * MIB)
    size = process_bytes()
    assert size is not None
    assert size > kept.nbytes
