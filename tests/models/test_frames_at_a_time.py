"""How many frames run at a time is checked wherever it is set: when made, when loaded, and after loading."""

from pathlib import Path

import pytest
import torch
from every_design import every_design
from factory import DesignCase


@every_design
def test_options_of_loading_are_checked_like_those_of_the_constructor(case: DesignCase, tmp_path: Path) -> None:
    """transformers sets them after it has checked the file, so they were never checked."""
    config = case.make_model().config
    config.save_pretrained(tmp_path)
    for name in ("vision_chunk_size", "num_frames"):
        with pytest.raises(ValueError, match=f"^{name} must be at least 1"):
            type(config).from_pretrained(tmp_path, **{name: 0})
        assert getattr(type(config).from_pretrained(tmp_path, **{name: 8}), name) == 8  # the control
        loaded, unused = type(config).from_pretrained(tmp_path, return_unused_kwargs=True, unknown=1, **{name: 8})
        assert (getattr(loaded, name), unused) == (8, {"unknown": 1})


@every_design
@torch.no_grad()
def test_a_wrong_number_of_frames_at_a_time_is_refused(case: DesignCase) -> None:
    """A negative one made a loop without end."""
    model, batch = case.make_model(), case.make_batch([["v3"]])
    for value in (0, -1):
        model.config.vision_chunk_size = value
        with pytest.raises(ValueError, match=r"^vision_chunk_size must be at least 1 or None, not "):
            model(**batch)
    model.config.vision_chunk_size = 1
    assert model(**batch).logits.isfinite().all()  # the control
