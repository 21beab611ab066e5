"""The invariants of `invariants.py` as tests that a design's test file inherits."""

from pathlib import Path
from typing import ClassVar

import invariants
import pytest
from factory import DesignCase

every_layout = pytest.mark.parametrize("layout", invariants.ROW_LAYOUTS)


class InvariantTests:
    """What must hold for every design.

    A test that asks for `case` runs for all of `cases`, one that asks for `first_case` only for the first of them: it
    is dear, or checks what the language model and the tower have no part in.
    """

    cases: ClassVar[list[DesignCase]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        for argument, cases in (("case", self.cases), ("first_case", self.cases[:1])):
            if argument in metafunc.fixturenames:
                metafunc.parametrize(argument, cases, ids=lambda case: case.name)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padded_batch_equals_single_rows(self, case: DesignCase, side: str) -> None:
        invariants.check_padding(case, side)

    def test_position_ids(self, case: DesignCase) -> None:
        invariants.check_position_ids(case)

    def test_decoding_by_hand(self, case: DesignCase) -> None:
        invariants.check_decoding_by_hand(case)

    @pytest.mark.parametrize("implementation", ["dynamic", "static"])
    def test_cached_equals_uncached(self, case: DesignCase, implementation: str) -> None:
        invariants.check_cache(case, implementation)

    @every_layout
    def test_return_sequences_equal_rows_written_out(self, case: DesignCase, layout: str) -> None:
        invariants.check_return_sequences(case, layout)

    @every_layout
    def test_beams_equal_rows_written_out(self, case: DesignCase, layout: str) -> None:
        invariants.check_beams(case, layout)

    @every_layout
    def test_beams_from_encoded_media(self, first_case: DesignCase, layout: str) -> None:
        invariants.check_beams(first_case, layout, encoded=True)

    def test_beam_checks_would_see_the_naive_way(self, first_case: DesignCase) -> None:
        invariants.check_media_expansion_is_needed(first_case)

    def test_chunked_encoding_equals_whole(self, case: DesignCase) -> None:
        invariants.check_chunked_encoding(case)

    def test_save_and_reload(self, case: DesignCase, tmp_path: Path) -> None:
        invariants.check_save_and_reload(case, tmp_path)

    def test_deepcopy(self, first_case: DesignCase) -> None:
        invariants.check_deepcopy(first_case)

    def test_gradient_reaches_what_is_trainable(self, case: DesignCase) -> None:
        invariants.check_gradients(case)

    # Not for all cases: in float64, torch refuses Mixtral's experts, and Gemma 2 alone gives NaN beside padding.
    def test_float64(self, first_case: DesignCase) -> None:
        invariants.check_float64(first_case)

    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_gradient_checkpointing(self, case: DesignCase, use_reentrant: bool) -> None:
        invariants.check_gradient_checkpointing(case, use_reentrant)

    def test_eager_equals_sdpa(self, case: DesignCase) -> None:
        invariants.check_attention_implementations(case)

    @pytest.mark.parametrize(
        "device_map",
        [
            {"model.vision_tower": "cpu", "model.connector": "cpu", "model.language_model": "disk", "lm_head": "cpu"},
            {"model.vision_tower": "disk", "model.connector": "disk", "model.language_model": "cpu", "lm_head": "disk"},
        ],
        ids=["language_on_disk", "vision_on_disk"],
    )
    def test_device_map_with_disk(self, first_case: DesignCase, device_map: dict[str, str], tmp_path: Path) -> None:
        invariants.check_device_map(first_case, tmp_path, device_map)

    def test_automatic_device_map_with_little_memory(self, case: DesignCase, tmp_path: Path) -> None:
        invariants.check_device_map(case, tmp_path, "auto", max_memory={"cpu": 80_000})

    def test_compiled_as_one_graph(self, first_case: DesignCase) -> None:
        invariants.check_compile(first_case, "aot_eager", fullgraph=True)

    def test_compiled_as_one_graph_from_encoded_media(self, first_case: DesignCase) -> None:
        invariants.check_compile(first_case, "eager", fullgraph=True, encoded=True)

    @pytest.mark.slow
    def test_every_language_model_compiled_from_encoded_media(self, case: DesignCase) -> None:
        invariants.check_compile(case, "eager", fullgraph=True, encoded=True)

    def test_compiled_with_frame_counts(self, first_case: DesignCase) -> None:
        invariants.check_compile(first_case, "eager", fullgraph=False)

    @pytest.mark.slow
    def test_compiled_by_inductor(self, first_case: DesignCase) -> None:
        invariants.check_compile(first_case, "inductor", fullgraph=True)

    def test_encoded_media_equal_pixels(self, case: DesignCase) -> None:
        invariants.check_encoded_media(case)

    def test_inputs_embeds_equal_ids(self, case: DesignCase) -> None:
        invariants.check_inputs_embeds(case)

    def test_logits_to_keep(self, first_case: DesignCase) -> None:
        invariants.check_logits_to_keep(first_case)
