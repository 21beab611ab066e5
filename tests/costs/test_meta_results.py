"""Results that are found are those that would be computed, and what cannot be found is computed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from hf_videollm.costs import meta_results
from hf_videollm.costs.meta_results import run_once

aten = torch.ops.aten


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """Nothing is known at first."""
    known: dict[Any, Any] = {}
    monkeypatch.setattr(meta_results, "_known", known)
    return known


def forms(result: Any) -> list[Any]:
    return [(item.shape, item.stride(), item.dtype, item.device.type) for item in tree_leaves(result)]


@pytest.mark.parametrize(
    ("func", "arguments"),
    [
        (aten.mul.Tensor, lambda: (empty(2, 3), empty(3))),
        (aten.mul.Tensor, lambda: (empty(3, 2).t(), empty(2, 3))),
        (aten.mul.Tensor, lambda: (empty(2, dtype=torch.long), 1)),
        (aten.mul.Tensor, lambda: (empty(2, dtype=torch.long), 1.0)),
        (aten.mul.Tensor, lambda: (empty(2, dtype=torch.bfloat16), empty(2))),
        (aten.cat.default, lambda: ([empty(1, 2), empty(4, 2)],)),
        (aten.native_layer_norm.default, lambda: (empty(2, 3), [3], empty(3), empty(3), 1e-5)),
        (aten.sum.dim_IntList, lambda: (empty(2, 3, 4), [1], True)),
    ],
)
def test_found_results_are_as_computed(
    func: Any, arguments: Callable[[], tuple[Any, ...]], known: dict[Any, Any]
) -> None:
    expected = forms(func(*arguments()))
    for number in range(2):
        assert len(known) == number
        assert forms(run_once(func, arguments(), {})) == expected


def test_arguments_that_are_equal_are_not_always_alike(known: dict[Any, Any]) -> None:
    """1, 1.0 and True; rows and columns; a named argument."""
    whole, columns = empty(2, 2, dtype=torch.long), empty(2, 2, dtype=torch.long).t()
    found = [run_once(aten.mul.Tensor, (whole, number), {}) for number in (1, 1.0, True)]
    assert [item.dtype for item in found] == [torch.long, torch.float32, torch.long]
    assert run_once(aten.mul.Tensor, (columns, 1), {}).stride() == (1, 2)
    assert run_once(aten.sum.default, (whole,), {"dtype": torch.float64}).dtype == torch.float64
    assert run_once(aten.sum.default, (whole,), {}).dtype == torch.long
    assert len(known) == 6


def test_views_changes_and_values_are_computed(known: dict[Any, Any]) -> None:
    tensor = empty(2, 3)
    view = run_once(aten.t.default, (tensor,), {})
    assert view.untyped_storage()._cdata == tensor.untyped_storage()._cdata
    assert run_once(aten.add_.Tensor, (tensor, 1), {}) is tensor
    assert run_once(aten.add.Tensor, (torch.ones(2), 1), {}).tolist() == [2.0, 2.0]
    assert run_once(aten.add.Tensor, (torch.ones(2), 2), {}).tolist() == [3.0, 3.0]
    assert not known


def test_what_cannot_run_without_values_cannot_be_found(known: dict[Any, Any]) -> None:
    for _ in range(2):
        with pytest.raises(NotImplementedError):
            run_once(aten.nonzero.default, (empty(3),), {})
    assert not known


def test_it_forgets_what_is_too_much(known: dict[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_results, "MOST_KNOWN", 3)
    for size in range(1, 6):
        assert run_once(aten.neg.default, (empty(size),), {}).shape == (size,)
        assert len(known) <= 3
