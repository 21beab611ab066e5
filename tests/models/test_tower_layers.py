"""The vision tower stops at the last layer that is used: with equal features, and without a change of the model."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from factory import QWEN_VL_VISION, VISION_TOWERS, ftfv_case, iva_case, pllava_case, random_frames

from hf_videollm.models.transformers_compat import enable_checkpointing
from hf_videollm.models.video_llm_tower_layers import LayerRun, StoppableLayers
from hf_videollm.models.video_llm_vision_tower import vision_layers

CLIP = VISION_TOWERS["clip_vision_model"]
TOWERS: dict[str, dict[str, Any]] = {
    **VISION_TOWERS,
    "qwen_vl_vision": QWEN_VL_VISION,
    **{
        name: {**CLIP, "model_type": name}
        for name in ("dinov2", "vit", "ijepa", "aimv2_vision_model", "mlcd_vision_model", "chinese_clip_vision_model")
    },
    "dinov3_vit": {**CLIP, "model_type": "dinov3_vit", "num_register_tokens": 0},
    "internvl_vision": {**CLIP, "model_type": "internvl_vision", "image_size": [16, 16], "patch_size": [4, 4]},
}
WITHOUT_CLASS_TOKEN = ("siglip_vision_model", "qwen_vl_vision", "ijepa", "aimv2_vision_model")
NUM_LAYERS = 3
# Layers -> how many of the three run.
LAYERS: dict[Any, int] = {-2: 2, -3: 1, 0: 1, 2: 2, (-3, -2): 2, (0, -3): 1, -1: 3, (-2, -1): 3}


def make(tower: str = "clip_vision_model", layer: Any = -2) -> Any:
    strategy = "full" if tower in WITHOUT_CLASS_TOKEN else "default"
    layers = list(layer) if isinstance(layer, tuple) else layer
    case = pllava_case(
        "llama", vision_config=TOWERS[tower], vision_feature_layer=layers, vision_feature_select_strategy=strategy
    )
    return case.make_model().model


def make_frames(count: int = 3) -> torch.Tensor:
    return random_frames(count, torch.Generator().manual_seed(0))


def layer_calls(model: Any) -> list[int]:
    """A list that gets the number of each layer of the tower when it is called."""
    calls: list[int] = []
    for number, layer in enumerate(vision_layers(model.vision_tower)):
        layer.register_forward_hook(lambda module, args, output, number=number: calls.append(number))
    return calls


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_features_are_those_of_all_layers(tower: str, layer: Any) -> None:
    model, frames = make(tower, layer), make_frames()
    calls = layer_calls(model)
    with torch.no_grad():
        found = model.encode_frames(frames).last_hidden_state
        assert calls == list(range(LAYERS[layer]))
        states = model.vision_tower(pixel_values=frames, output_hidden_states=True).hidden_states
    assert len(states) == NUM_LAYERS + 1, "a call of the tower itself runs all layers"
    expected = torch.cat([states[index] for index in (layer if isinstance(layer, tuple) else (layer,))], -1)
    assert torch.equal(found, expected if tower in WITHOUT_CLASS_TOKEN else expected[:, 1:])


@pytest.mark.parametrize("case", [iva_case("llama"), ftfv_case("llama", vision_feature_layer=-2)], ids=str)
def test_other_designs_stop_too(case: Any) -> None:
    model = case.make_model()
    calls = layer_calls(model.model)
    with torch.no_grad():
        model(**case.make_batch([["v2"]]))
    assert calls == [0, 1]


def test_layer_minus_one_of_ftfv_keeps_no_hidden_states(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ftfv_case("llama").make_model().model
    (outputs,) = model.run_vision_tower([make_frames()])
    assert outputs.hidden_states is None
    assert model.used_hidden_states() == []


def test_only_what_is_used_is_kept() -> None:
    (outputs,) = make(layer=(0, -2)).run_vision_tower([make_frames()])
    assert [state is None for state in outputs.hidden_states] == [False, True, False, True]
    (outputs,) = make().run_vision_tower([make_frames()], keeps_hidden_states=True)
    assert not any(state is None for state in outputs.hidden_states)


def test_all_states_are_returned_when_they_are_asked_for() -> None:
    model, frames = make(), make_frames()
    with torch.no_grad():
        found = model.encode_frames(frames, output_hidden_states=True).hidden_states
        expected = model.vision_tower(pixel_values=frames, output_hidden_states=True).hidden_states
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_model_is_the_same_to_everything_else() -> None:
    model = make()
    tower = model.vision_tower
    plain = type(tower)(tower.config)
    assert list(tower.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in tower.named_modules()] == [name for name, _ in plain.named_modules()]
    layers = vision_layers(tower)
    assert isinstance(layers, StoppableLayers)
    assert list(layers) == [layers[index] for index in range(NUM_LAYERS)]
    with torch.no_grad():
        expected = model.encode_frames(make_frames()).last_hidden_state
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            calls = layer_calls(twin)
            assert torch.equal(twin.encode_frames(make_frames()).last_hidden_state, expected)
            assert calls == [0, 1]


def test_threads_do_not_see_each_other() -> None:
    """One thread stops at the second layer, another runs the tower of the same model to its end."""
    model, frames = make(), make_frames(16)
    with torch.no_grad():
        expected = (
            model.encode_frames(frames).last_hidden_state,
            model.vision_tower(pixel_values=frames).last_hidden_state,
        )

    @torch.no_grad()
    def run(number: int) -> bool:
        if number % 2:
            return torch.equal(model.vision_tower(pixel_values=frames).last_hidden_state, expected[1])
        return torch.equal(model.encode_frames(frames).last_hidden_state, expected[0])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(20)))


@pytest.mark.parametrize("is_reentrant", [True, False])
def test_gradients_with_checkpointing(is_reentrant: bool) -> None:
    model, frames = make().train(), make_frames().requires_grad_()

    def gradient() -> torch.Tensor:
        model.encode_frames(frames).last_hidden_state.square().sum().backward()
        (found, frames.grad) = (frames.grad, None)
        return found

    expected = gradient()
    enable_checkpointing(model, {"use_reentrant": is_reentrant})
    torch.testing.assert_close(gradient(), expected)


@pytest.mark.parametrize("layer", [-2, (0, -3)], ids=str)
def test_compiled(layer: Any) -> None:
    """The tower is one graph, which also stops at the last layer that is used."""
    model, frames, graphs = make(layer=layer), make_frames(), []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def encode(frames: torch.Tensor) -> torch.Tensor:
        return model.encode_frames(frames).last_hidden_state

    with torch.no_grad():
        torch.testing.assert_close(torch.compile(encode, backend=backend, fullgraph=True)(frames), encode(frames))
    (graph,) = graphs
    attentions = [node for node in graph.graph.nodes if "scaled_dot_product" in str(node.target)]
    assert len(attentions) == LAYERS[layer]


def test_a_tower_that_skips_layers_is_refused() -> None:
    """A tower whose forward does not follow its list of layers."""
    run = LayerRun([2], num_states=4)
    with run:
        next(iter(StoppableLayers([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])))(torch.ones(1, 2))
    with pytest.raises(RuntimeError, match=r"hidden states \[\] instead of \[2\]"):
        run.hidden_states()
