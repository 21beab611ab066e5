"""The shared invariants for PLLaVA on several towers."""

import invariants
import pytest
from factory import PLLAVA_CASES, VISION_TOWERS, pllava_case
from invariant_tests import InvariantTests


class TestPllava(InvariantTests):
    cases = PLLAVA_CASES


@pytest.mark.parametrize("layer", [-1, 1, [1, -2]], ids=str)
@pytest.mark.parametrize("vision", VISION_TOWERS)
def test_gradient_reaches_what_is_trainable_for_any_feature_layer(vision: str, layer: int | list[int]) -> None:
    invariants.check_gradients(pllava_case("llama", vision, vision_feature_layer=layer))
