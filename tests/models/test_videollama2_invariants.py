"""The shared invariants for VideoLLaMA2: its connectors on several towers."""

import invariants
import pytest
from factory import VIDEOLLAMA2_CASES, VISION_TOWERS, videollama2_case
from invariant_tests import InvariantTests


class TestVideoLlama2(InvariantTests):
    cases = VIDEOLLAMA2_CASES


@pytest.mark.parametrize("connector", ["stc_connector", "spatial_pool", "linear"])
def test_gradient_reaches_what_is_trainable_for_several_feature_layers(connector: str) -> None:
    invariants.check_gradients(videollama2_case(connector, "llama", vision_feature_layer=[1, -2], connector_depth=1))


@pytest.mark.parametrize("vision", VISION_TOWERS)
def test_every_connector_sees_its_media(vision: str) -> None:
    """Two towers, all connectors: padded rows of unequal frame counts equal the rows alone."""
    for connector in ("stc_connector", "stc_connector_v35", "stp_connector", "spatial_pool", "linear"):
        invariants.check_padding(videollama2_case(connector, "llama", vision), "left")
