"""The reference tensors: small, made by scripts that know nothing of this package, and as the scripts make them."""

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from reference_files import FOLDER, Reference

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.append(str(TOOLS))

from reference_tensors import __main__ as tool  # noqa: E402
from reference_tensors import blocks  # noqa: E402

DESIGNS = {module.__name__.rpartition(".")[2]: module for module in tool.DESIGNS}
MOST_BYTES = 500_000
ALLOWED_IMPORTS = {*sys.stdlib_module_names, "numpy", "safetensors"}
# Parts of NumPy that would compute in place of the loops.
FORBIDDEN_CALLS = {"dot", "matmul", "einsum", "convolve", "tensordot", "inner", "linalg", "fft"}


def imported_packages(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(str(node.module).split(".")[0])
    return names


def calls_of_numpy(source: str) -> set[str]:
    """Names of NumPy that do products, and `@`."""
    nodes = list(ast.walk(ast.parse(source)))
    attributes = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np"
    }
    return (attributes & FORBIDDEN_CALLS) | {"@" for node in nodes if isinstance(node, ast.MatMult)}


def test_all_files_together_are_small() -> None:
    files = sorted(FOLDER.iterdir())
    assert [file.name for file in files] == sorted(f"{name}.safetensors" for name in DESIGNS)
    assert sum(file.stat().st_size for file in files) < MOST_BYTES


def test_scripts_import_nothing_of_this_package_nor_of_torch() -> None:
    scripts = sorted((TOOLS / "reference_tensors").glob("*.py"))
    assert len(scripts) > len(DESIGNS)
    for script in scripts:
        assert imported_packages(script.read_text()) <= ALLOWED_IMPORTS, script.name
    # The control.
    assert imported_packages("import torch.nn\nfrom hf_videollm.models import x\nfrom . import y") == {
        "torch",
        "hf_videollm",
    }


def test_scripts_compute_by_plain_loops() -> None:
    for script in sorted((TOOLS / "reference_tensors").glob("*.py")):
        assert not calls_of_numpy(script.read_text()), script.name
    assert calls_of_numpy("np.einsum(x) + a @ b + np.linalg.norm(c)") == {"einsum", "@", "linalg"}


@pytest.mark.parametrize("name", sorted(DESIGNS))
def test_scripts_make_the_files_again(name: str) -> None:
    """Inputs and weights exactly; outputs to the last place of float32, as C libraries round exp and sin differently.

    Inputs and weights are numbers of float32, or the outputs would belong to others than those in the file.
    """
    made, sizes = DESIGNS[name].make()
    reference = Reference(name)
    assert set(made) == set(reference.tensors)
    assert json.loads(json.dumps(sizes)) == reference.sizes
    for key, tensor in made.items():
        if key.startswith(("inputs.", "weights.")):
            assert np.array_equal(tensor, reference[key].numpy()), key
        else:
            np.testing.assert_allclose(tensor, reference[key].numpy(), rtol=2**-22, atol=1e-12, err_msg=key)


def test_softmax_gives_masked_entries_no_weight() -> None:
    """The block that all designs share."""
    shares = blocks.softmax([1.0, 5.0, 1.0], [True, False, True])
    assert shares == [0.5, 0.0, 0.5]
