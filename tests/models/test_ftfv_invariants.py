"""The shared invariants for FTFV: Qwen-VL's tower and two of transformers, in front of three language models."""

import invariants
import pytest
from factory import FTFV_CASES, ftfv_case
from invariant_tests import InvariantTests


class TestFtfv(InvariantTests):
    cases = FTFV_CASES


@pytest.mark.parametrize("layer", [1, [1, -2]], ids=str)
@pytest.mark.parametrize("vision", ["qwen_vl_vision", "siglip_vision_model"])
def test_gradient_reaches_what_is_trainable_for_any_feature_layer(vision: str, layer: int | list[int]) -> None:
    invariants.check_gradients(ftfv_case("llama", vision, vision_feature_layer=layer))


def test_sampled_images_are_batched_like_others() -> None:
    invariants.check_padding(ftfv_case("llama", sample_images=True), "left")
