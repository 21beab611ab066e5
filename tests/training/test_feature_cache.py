"""Stored features of the tower train and answer exactly as the pixels they were made of."""

import pytest
import torch

from hf_videollm.data.records import read_jsonl
from hf_videollm.synthetic.long import SHORT_FRAMES, generate_long_dataset, make_long_scene
from hf_videollm.synthetic.tiny.iva import build_tiny_iva, train_tower
from hf_videollm.training.caches.features import FeatureCache, FeatureCollator, reads_features
from hf_videollm.training.collator import VideoDataCollator
from hf_videollm.training.sft import load_recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Model with an adapter that does something, processor, rows of two videos, their features."""
    folder = tmp_path_factory.mktemp("short")
    rows = [record.to_dict() for record in read_jsonl(generate_long_dataset(folder, 2, 0, SHORT_FRAMES, 2))]
    model, processor = build_tiny_iva()
    with torch.no_grad():
        model.model.adapter.output.weight.normal_(std=0.3)
    paths = [row["messages"][0]["content"][0]["path"] for row in rows]
    features = FeatureCache.build(paths, model.eval(), processor.video_processor, folder / "features", progress=False)
    return model, processor, rows, features


def test_features_are_those_of_the_tower(made):
    model, processor, _, features = made
    assert len(features) == 2
    for seed, (path, stored) in enumerate(features.items()):
        assert features.num_frames(path) == len(stored) == make_long_scene(seed, SHORT_FRAMES).num_frames
        frames = processor.video_processor(videos=[path], return_tensors="pt")["pixel_values_videos"][0]
        with torch.no_grad():
            (outputs,) = model.model.run_vision_tower([frames])
        assert torch.allclose(stored, outputs.hidden_states[-1], atol=5e-3)


def test_loss_is_that_of_the_pixels(made):
    model, processor, rows, features = made
    with torch.no_grad():
        of_pixels = model(**VideoDataCollator(processor)(rows)).loss
        batch = FeatureCollator(processor, features=features)(rows)
        with reads_features(model):
            of_features = model(**batch).loss
            others = torch.randn_like(batch["pixel_values_videos"])
            of_others = model(**{**batch, "pixel_values_videos": others}).loss
    # Features were rounded to half precision.
    assert torch.allclose(of_pixels, of_features, atol=1e-3)
    assert abs(of_others - of_pixels) > 2e-2


def test_pixels_are_pixels_again_afterwards(made):
    model, processor, rows, _ = made
    before = model(**VideoDataCollator(processor)(rows)).loss
    with pytest.raises(RuntimeError, match="stop here"), reads_features(model):
        raise RuntimeError("stop here")
    assert torch.equal(model(**VideoDataCollator(processor)(rows)).loss, before)


def test_an_unchanged_tower_is_not_run_again(made, monkeypatch):
    model, processor, _, features = made
    folder = next(iter(features)).rsplit("/videos/", 1)[0] + "/features"
    monkeypatch.setattr(type(model.model), "run_vision_tower", lambda *args: pytest.fail("the tower ran"))
    again = FeatureCache.build(list(features), model, processor.video_processor, folder, progress=False)
    assert all(torch.equal(again[path], features[path]) for path in features)
    with torch.no_grad():
        model.model.vision_tower.embeddings.class_embedding.add_(1.0)
    with pytest.raises(pytest.fail.Exception, match="the tower ran"):
        FeatureCache.build(list(features), model, processor.video_processor, folder, progress=False)
    with torch.no_grad():
        model.model.vision_tower.embeddings.class_embedding.sub_(1.0)


def test_no_videos_are_refused(made, tmp_path):
    with pytest.raises(ValueError, match="no videos to encode"):
        FeatureCache.build([], made[0], made[1].video_processor, tmp_path)


def test_both_arms_start_alike():
    with_iva, without = build_tiny_iva(3)[0].state_dict(), build_tiny_iva(3, num_insertions=0)[0].state_dict()
    assert all(torch.equal(with_iva[name], weight) for name, weight in without.items())
    assert {name.split(".")[1] for name in set(with_iva) - set(without)} == {"adapter", "query_tokens"}
    other = build_tiny_iva(4, num_insertions=0)[0].state_dict()
    name = "model.connector.temporal.weight"
    assert not torch.equal(other[name], without[name])


@pytest.mark.parametrize("name", ["iva/stills", "iva/short", "iva/videos"])
def test_recipes_leave_the_tower_alone(name):
    assert not any("vision_tower" in pattern for pattern in load_recipe(name).trainable)


def test_the_tower_learns_what_is_where():
    model, _ = build_tiny_iva()
    scenes = [make_long_scene(seed, (1, 1)) for seed in range(300)]
    state = torch.random.get_rng_state()
    reached = train_tower(model.model.vision_tower, scenes, num_steps=60, batch_size=32, progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    # Sixty steps are a beginning: half of these frames are grey, an eighth of the shapes are of each colour.
    assert reached["backdrop"] > 0.8
    assert reached["colour"] > 0.3
