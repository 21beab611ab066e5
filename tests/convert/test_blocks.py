"""Tensors that are read, cast and merged block by block are those that were stored."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hf_videollm.convert.blocks import BLOCK, cast_blocks, merged_blocks, read_blocks
from hf_videollm.convert.stream import StoredTensor, read_header
from hf_videollm.models.errors import CheckpointError

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def stored(folder: Path, **tensors: torch.Tensor) -> dict[str, StoredTensor]:
    file = folder / "model.safetensors"
    save_file(tensors, file)
    return {tensor.name: tensor for tensor in read_header(file)}


def join(blocks: Iterator[torch.Tensor]) -> torch.Tensor:
    """Blocks share their memory, so each is copied before the next one is asked for."""
    return torch.cat([block.clone() for block in blocks])


def test_blocks_are_the_stored_values_and_share_their_memory(tmp_path: Path) -> None:
    tensors = {
        "long": torch.randn(3, BLOCK // 4 + 5),
        "short": torch.randn(4, 3).half(),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        "counts": torch.arange(5),
    }
    for name, found in stored(tmp_path, **tensors).items():
        if tensors[name].numel():
            assert torch.equal(join(read_blocks(found)), tensors[name].flatten()), name
        else:
            assert list(read_blocks(found)) == []
    long = stored(tmp_path, **tensors)["long"]
    assert len({block.data_ptr() for block in read_blocks(long)}) == 1
    assert max(block.nbytes for block in read_blocks(long)) == BLOCK


@pytest.mark.parametrize("columns", [7, BLOCK])
def test_rows_stay_whole(tmp_path: Path, columns: int) -> None:
    table = torch.randn(5, columns)
    found = stored(tmp_path, table=table)["table"]
    assert torch.equal(join(read_blocks(found, whole_rows=True)), table)
    assert torch.equal(join(read_blocks(found, rows=2)), table[:2].flatten())
    assert torch.equal(join(read_blocks(found, rows=9, whole_rows=True)), table)


def test_every_value_of_16_bits_is_cast_as_torch_casts_it(tmp_path: Path) -> None:
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16)
    for source in (torch.float16, torch.bfloat16):
        values = numbers.view(source)
        values = values[values.isfinite() & (values.abs() < 60_000)]
        assert len(values) > 30_000
        found = stored(tmp_path, values=values)["values"]
        for target in FLOATS:
            cast = join(cast_blocks(values.split(1000), target, found))
            assert cast.dtype == target
            assert torch.equal(cast, values.to(target))


@pytest.mark.parametrize(
    ("value", "source", "target"),
    [
        (70_000.0, torch.float32, torch.float16),
        (-1e9, torch.bfloat16, torch.float16),
        (1e300, torch.float64, FLOATS[1]),
    ],
)
def test_a_value_that_the_new_type_cannot_hold_is_an_error(
    tmp_path: Path, value: float, source: torch.dtype, target: torch.dtype
) -> None:
    found = stored(tmp_path, wide=torch.tensor([1.0, value], dtype=source))["wide"]
    with pytest.raises(CheckpointError, match=r"wide in .*model.safetensors holds values that are too large for float"):
        join(cast_blocks(read_blocks(found), target, found))
    # A control: without the large value, and with a type that holds it.
    assert join(cast_blocks(read_blocks(found, rows=1), target, found)).tolist() == [1.0]
    assert join(cast_blocks(read_blocks(found), torch.float64, found))[1] == torch.tensor(value, dtype=source)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_lora_is_merged_as_the_formula_says(tmp_path: Path, dtype: torch.dtype) -> None:
    # Several blocks of rows, and a last one that is shorter.
    rows, columns = 700, BLOCK // 4 // dtype.itemsize // 16
    weight, a, b = torch.randn(rows, columns), torch.randn(8, columns), torch.randn(rows, 8)
    tensors = {"w": weight.to(dtype), "a": a.to(dtype), "b": b.to(dtype)}
    found = stored(tmp_path, **tensors)
    assert len(list(read_blocks(found["w"], whole_rows=True))) > 1
    merged = join(merged_blocks(found["w"], (found["a"], found["b"]), 0.25))
    exact = tensors["w"].double() + 0.25 * tensors["b"].double() @ tensors["a"].double()
    assert merged.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(merged.double(), exact, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(merged.double(), tensors["w"].double(), atol=1e-2)


def test_a_bad_value_is_found_in_any_block(tmp_path: Path) -> None:
    values = torch.zeros(BLOCK)
    values[-1] = torch.inf
    found = stored(tmp_path, t=values)["t"]
    with pytest.raises(CheckpointError, match=r"t in .* holds NaN or infinity"):
        join(read_blocks(found))
    assert join(read_blocks(found, rows=BLOCK - 1)).count_nonzero() == 0


def test_a_file_that_became_shorter_or_vanished_is_an_error(tmp_path: Path) -> None:
    found = stored(tmp_path, t=torch.zeros(BLOCK))["t"]
    found.file.write_bytes(found.file.read_bytes()[:-2])
    with pytest.raises(CheckpointError, match="ends in the middle of t: download it again"):
        join(read_blocks(found))
    found.file.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        join(read_blocks(found))
