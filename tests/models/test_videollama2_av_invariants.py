"""The shared invariants for VideoLLaMA2-AV: rows that see, hear, do both or neither, in one batch."""

import invariants
import pytest
import torch
from factory import VIDEOLLAMA2_AV_CASES, collate, with_other_media
from invariant_tests import InvariantTests


class TestVideoLlama2AV(InvariantTests):
    cases = VIDEOLLAMA2_AV_CASES


CASE = VIDEOLLAMA2_AV_CASES[0]
# Video with sound, video alone, image with a sound of its own, text; several in a row.
ROWS = [["v4"], ["v3"], ["i"], [], ["v2", "i", "v3"]]


def test_batch_holds_what_its_name_says() -> None:
    """The factory's rule, which all shared invariants of this design rest on."""
    rows = CASE.make_rows(ROWS)
    assert [len(row.sounds) for row in rows] == [1, 0, 1, 0, 2]
    batch = collate(rows)
    assert batch["input_features"].isnan().any(), "sounds of one length would show nothing"
    assert len(set(batch["input_features_mask"].sum(-1).tolist())) > 1


def test_each_row_hears_its_own_sound() -> None:
    """Other sounds change the rows that have one, and only these."""
    model, rows = CASE.make_model(), CASE.make_rows(ROWS)
    others = [
        type(row)(row.ids, row.videos, row.images, other.sounds)
        for row, other in zip(rows, with_other_media(rows), strict=True)
    ]
    before, after = invariants.last_logits(model, rows), invariants.last_logits(model, others)
    for row, old, new in zip(rows, before, after, strict=True):
        if row.sounds:
            invariants.assert_moved(old, new, CASE, "other sounds")
        else:
            assert torch.equal(old, new)


def test_sound_alone() -> None:
    """A row without pixels, in a batch and alone."""
    model, rows = CASE.make_model(), CASE.make_rows([["i"], ["v4"]])
    ids = rows[0].ids[rows[0].ids != CASE.config["image_token_id"]]
    rows[0] = type(rows[0])(ids, sounds=rows[0].sounds)
    batch = collate(rows)
    assert "pixel_values" not in batch
    found = invariants.logits_of(model, batch)[0][batch["attention_mask"][0].bool()]
    invariants.assert_same(found, invariants.logits_of(model, collate([rows[0]]))[0], "sound alone")


def test_no_sound_is_no_sound() -> None:
    """A batch without sounds runs without the ear: equal to VideoLLaMA2 with the same weights."""
    model = CASE.make_model()
    batch = CASE.make_batch([["v3"], []])
    assert "input_features" not in batch
    before = invariants.logits_of(model, batch)
    with torch.no_grad():
        for parameter in [*model.model.audio_tower.parameters(), *model.model.audio_projector.parameters()]:
            parameter.fill_(float("nan"))
    assert torch.equal(invariants.logits_of(model, batch), before)


def test_mask_left_out_means_all_frames() -> None:
    model, rows = CASE.make_model(), CASE.make_rows([["v4"]])
    batch = collate(rows)
    expected = invariants.logits_of(model, batch)
    batch.pop("input_features_mask")
    assert torch.equal(invariants.logits_of(model, batch), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_features_mask": torch.ones(1, 3)}, "does not fit input_features"),
        ({"input_features": torch.zeros(4, 128)}, "must be \\(sounds, frames, mel bins\\)"),
        ({"input_features": torch.zeros(1, 15, 128), "input_features_mask": None}, "needs at least 16"),
        ({"input_features_mask": torch.arange(101)[None] % 2}, "1 up to the end of each sound"),
        ({"input_features": torch.zeros(1, 400, 128), "input_features_mask": None}, "audio placeholders"),
    ],
)
def test_wrong_sounds_are_refused(change: dict, message: str) -> None:
    model, batch = CASE.make_model(), collate(CASE.make_rows([["v4"]]))
    with pytest.raises(ValueError, match=message):
        model(**{**batch, **change})


def test_forgotten_sounds_are_refused() -> None:
    """Placeholders of sound alone, and nothing to hear."""
    model = CASE.make_model()
    ids = torch.tensor([[5, CASE.config["audio_token_id"], 6]])
    with pytest.raises(ValueError, match="neither pixels nor sounds"):
        model.generate(ids, max_new_tokens=2)
