"""The new parts of a built model fit the size of the words of its language model, whatever that size is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from build_checks import SMALL
from build_llms import write_beats, write_llm, write_tower
from first_gradients import gradients_of_parts, largest_share, make, sizes_of_vectors, train_new_parts
from safetensors.torch import load_file, save_file

from hf_videollm import build_checkpoint
from hf_videollm.data.records import make_record
from hf_videollm.designs import buildable
from hf_videollm.models.video_llm_word_size import word_size
from hf_videollm.training.collator import VideoDataCollator
from hf_videollm.training.loading import load_for_training

OPTIONS: dict[str, dict[str, Any]] = {
    **SMALL,
    "iva": {"num_insertions": 4, "num_query_tokens": 16, "adapter_hidden_size": 32},
}
# Factors of the embeddings, whose root mean square is 0.2 before.
SIZES = (0.1, 200.0)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    root = tmp_path_factory.mktemp("scales")
    found: dict[Any, Path] = {"vision": write_tower(root / "clip"), "audio": root / "beats"}
    write_beats(root / "beats")
    for size in SIZES:
        found[size] = write_llm(root / f"llm_{size}", "llama_tied")
        weights = load_file(found[size] / "model.safetensors")
        weights["model.embed_tokens.weight"] *= size
        save_file(weights, found[size] / "model.safetensors", {"format": "pt"})
    return found


def build(design: str, size: float, places: dict[Any, Path], **options: Any) -> tuple[Any, Any]:
    sources = {"vision": places["vision"], "language_model": places[size]}
    if design == "videollama2_av":
        sources["audio"] = places["audio"]
    return make(design, sources, **{**OPTIONS[design], **options})


def forget_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """New parts start as if nobody knew the size of words."""
    for module in ("convert.scales", "models.modeling_iva", "build.linvt"):
        monkeypatch.setattr(f"hf_videollm.{module}.word_size", lambda embedding: None)


def one_batch(processor: Any, clips: list[str]) -> Any:
    return VideoDataCollator(processor)([make_record("1", clips[0], [("Colour?", "A red dog.")]).to_dict()])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("design", buildable())
def test_vectors_are_as_large_as_words(
    design: str, size: float, places: dict[Any, Path], clips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = build(design, size, places)
    batch = one_batch(processor, clips)
    fitting = sizes_of_vectors(model, batch)
    assert all(0.25 < share < 4 for share in fitting.values()), fitting
    # The control: the old start, whose vectors are of one size before every language model.
    forget_sizes(monkeypatch)
    old = sizes_of_vectors(build(design, size, places)[0], batch)
    assert old.keys() == fitting.keys()
    assert not all(0.25 < share < 4 for share in old.values()), old


def first_gradients(model: Any, batch: Any) -> dict[str, float]:
    train_new_parts(model)
    model.train()(**batch).loss.backward()
    return gradients_of_parts(model)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("design", buildable())
def test_no_part_has_a_far_larger_gradient(
    design: str, size: float, places: dict[Any, Path], clips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = build(design, size, places)
    batch = one_batch(processor, clips)
    gradients = first_gradients(model, batch)
    assert len(gradients) > 1
    assert largest_share(gradients) < 100, gradients
    if design == "iva" and size == max(SIZES):
        # The control: query tokens that are far smaller than words.
        forget_sizes(monkeypatch)
        old = first_gradients(build(design, size, places)[0], batch)
        assert largest_share(old) > 100, old


def test_an_adapter_that_training_adds_fits_the_words(places: dict[Any, Path], tmp_path: Path) -> None:
    """Query tokens start at the size of words in a new model and in one that a training stage gives an adapter."""
    size = max(SIZES)
    sources = {"vision": places["vision"], "language_model": places[size]}
    build_checkpoint("iva", tmp_path / "iva", **sources)
    options = {"num_insertions": 2, "num_query_tokens": 3, "adapter_hidden_size": 24}
    model, _ = load_for_training(str(tmp_path / "iva"), options)
    queries = model.model.query_tokens.weight
    assert queries.square().mean().sqrt().item() == pytest.approx(word_size(model.get_input_embeddings()), rel=1e-3)
    assert queries.std() > 1, "the control: words are far from 0.02"


def test_the_size_of_words() -> None:
    table = torch.nn.Embedding(9000, 6)
    torch.nn.init.normal_(table.weight, std=3.0)
    assert word_size(table) == pytest.approx(3.0, rel=0.05)
    with torch.no_grad():
        table.weight.zero_()
    assert word_size(table) is None
    assert word_size(torch.nn.Embedding(4, 4, device="meta")) is None
