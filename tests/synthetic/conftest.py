"""The bundled checkpoint that a test file is about (`FOLDER`), loaded, and the accuracy that its script recorded."""

import json
from typing import Any

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor


@pytest.fixture(scope="module")
def loaded(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """Model and processor."""
    folder = request.module.FOLDER
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def recorded(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Content of its accuracy.json."""
    content: dict[str, Any] = json.loads((request.module.FOLDER / "accuracy.json").read_text())
    return content
