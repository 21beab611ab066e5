"""The invariants of `invariants.py` for PLLaVA on several towers."""

from pathlib import Path

import invariants
import pytest
from factory import PLLAVA_CASES, VISION_TOWERS, DesignCase, pllava_case

every_case = pytest.mark.parametrize("case", PLLAVA_CASES, ids=lambda case: case.name)
one_case = pytest.mark.parametrize("case", PLLAVA_CASES[:1], ids=lambda case: case.name)
every_layout = pytest.mark.parametrize("layout", invariants.ROW_LAYOUTS)


@every_case
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch_equals_single_rows(case: DesignCase, side: str) -> None:
    invariants.check_padding(case, side)


@every_case
def test_position_ids(case: DesignCase) -> None:
    invariants.check_position_ids(case)


@every_case
def test_decoding_by_hand(case: DesignCase) -> None:
    invariants.check_decoding_by_hand(case)


@every_case
@pytest.mark.parametrize("implementation", ["dynamic", "static"])
def test_cached_equals_uncached(case: DesignCase, implementation: str) -> None:
    invariants.check_cache(case, implementation)


@every_case
@every_layout
def test_return_sequences_equal_rows_written_out(case: DesignCase, layout: str) -> None:
    invariants.check_return_sequences(case, layout)


@every_case
@every_layout
def test_beams_equal_rows_written_out(case: DesignCase, layout: str) -> None:
    invariants.check_beams(case, layout)


@one_case
@every_layout
def test_beams_from_encoded_media(case: DesignCase, layout: str) -> None:
    invariants.check_beams(case, layout, encoded=True)


@one_case
def test_beam_checks_would_see_the_naive_way(case: DesignCase) -> None:
    invariants.check_media_expansion_is_needed(case)


@every_case
def test_chunked_encoding_equals_whole(case: DesignCase) -> None:
    invariants.check_chunked_encoding(case)


@every_case
def test_save_and_reload(case: DesignCase, tmp_path: Path) -> None:
    invariants.check_save_and_reload(case, tmp_path)


@one_case
def test_deepcopy(case: DesignCase) -> None:
    invariants.check_deepcopy(case)


@every_case
def test_gradient_reaches_what_is_trainable(case: DesignCase) -> None:
    invariants.check_gradients(case)


@pytest.mark.parametrize("layer", [-1, 1, [1, -2]], ids=str)
@pytest.mark.parametrize("vision", VISION_TOWERS)
def test_gradient_reaches_what_is_trainable_for_any_feature_layer(vision: str, layer: int | list[int]) -> None:
    invariants.check_gradients(pllava_case("llama", vision, vision_feature_layer=layer))


# The new name of `gradient_checkpointing_enable` does not exist in the oldest supported release.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@every_case
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing(case: DesignCase, use_reentrant: bool) -> None:
    invariants.check_gradient_checkpointing(case, use_reentrant)


@every_case
def test_eager_equals_sdpa(case: DesignCase) -> None:
    invariants.check_attention_implementations(case)


@pytest.mark.parametrize(
    "device_map",
    [
        {"model.vision_tower": "cpu", "model.connector": "cpu", "model.language_model": "disk", "lm_head": "cpu"},
        {"model.vision_tower": "disk", "model.connector": "disk", "model.language_model": "cpu", "lm_head": "disk"},
    ],
    ids=["language_on_disk", "vision_on_disk"],
)
@one_case
def test_device_map_with_disk(case: DesignCase, device_map: dict[str, str], tmp_path: Path) -> None:
    invariants.check_device_map(case, tmp_path, device_map)


@every_case
def test_automatic_device_map_with_little_memory(case: DesignCase, tmp_path: Path) -> None:
    invariants.check_device_map(case, tmp_path, "auto", max_memory={"cpu": 80_000})


@one_case
def test_compiled_as_one_graph(case: DesignCase) -> None:
    invariants.check_compile(case, "aot_eager", fullgraph=True)


@every_case
def test_compiled_as_one_graph_from_encoded_media(case: DesignCase) -> None:
    invariants.check_compile(case, "eager", fullgraph=True, encoded=True)


@one_case
def test_compiled_with_frame_counts(case: DesignCase) -> None:
    invariants.check_compile(case, "eager", fullgraph=False)


@pytest.mark.slow
@one_case
def test_compiled_by_inductor(case: DesignCase) -> None:
    invariants.check_compile(case, "inductor", fullgraph=True)


@every_case
def test_encoded_media_equal_pixels(case: DesignCase) -> None:
    invariants.check_encoded_media(case)


@every_case
def test_inputs_embeds_equal_ids(case: DesignCase) -> None:
    invariants.check_inputs_embeds(case)


@one_case
def test_logits_to_keep(case: DesignCase) -> None:
    invariants.check_logits_to_keep(case)
