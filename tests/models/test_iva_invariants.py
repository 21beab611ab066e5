"""The shared invariants for IVA: LLaMA, Qwen2 and Gemma2 with CLIP and SigLIP; and packed conversations."""

import invariants
import pytest
import torch
from factory import IVA_CASES, QUERY, collate, iva_case, with_other_media
from invariant_tests import InvariantTests


class TestIva(InvariantTests):
    cases = IVA_CASES


@pytest.mark.parametrize("side", ["left", "right"])
def test_baseline_without_the_adapter(side: str) -> None:
    case = iva_case("llama", num_insertions=0)
    assert not any(QUERY in row.ids for row in case.make_rows(invariants.MIXED))
    invariants.check_padding(case, side)
    invariants.check_gradients(case)


def test_the_block_of_query_tokens_matters() -> None:
    """Control of all of them: what the adapter adds moves the logits behind the block, of rows with media alone."""
    case = IVA_CASES[0]
    model, rows = case.make_model(), case.make_rows(invariants.MIXED)
    before = invariants.last_logits(model, rows)
    with torch.no_grad():
        model.base_model.adapter.output.weight.zero_()
    after = invariants.last_logits(model, rows)
    for row, old, new in zip(rows, before, after, strict=True):
        if row.has_media:
            invariants.assert_moved(old, new, case, "no adapter")
        else:
            assert torch.equal(old, new)


@pytest.mark.parametrize("side", ["left", "right"])
def test_blocks_before_several_answers(side: str) -> None:
    """A packed conversation: every prompt is followed by an answer and a second block."""
    case = iva_case("llama", query_placement="every")
    model = case.make_model()

    def packed(seed: int) -> list:
        rows = case.make_rows(invariants.MIXED, seed=0)
        rows = with_other_media(rows, seed) if seed else rows
        block = torch.full((case.make_config().num_query_tokens,), QUERY)
        more = torch.randint(3, 100, (4,), generator=torch.Generator().manual_seed(5))
        return [
            invariants.replace(row, ids=torch.cat([row.ids, more, block if row.has_media else more[:2]]))
            for row in rows
        ]

    rows = packed(0)
    batch = collate(rows, side)
    logits = invariants.logits_of(model, batch)
    for row, found, mask in zip(rows, logits, batch["attention_mask"].bool(), strict=True):
        alone = invariants.logits_of(model, collate([row]))[0]
        invariants.assert_same(found[mask], alone, f"{side}-padded row and row alone")
        # The second block changes nothing before it: the first answer is what it is without.
        first = invariants.replace(row, ids=row.ids[: -3 if row.has_media else -2])
        cut = invariants.logits_of(model, collate([first]))[0]
        invariants.assert_same(alone[: len(cut)], cut, "first round of a packed conversation")
    others = invariants.last_logits(model, packed(77))
    for row, old, new in zip(rows, invariants.last_logits(model, rows), others, strict=True):
        if row.has_media:
            invariants.assert_moved(old, new, case, "other media")
