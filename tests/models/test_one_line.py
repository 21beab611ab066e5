"""Messages of errors from other libraries become one line, by one function."""

import random
import re
from pathlib import Path

import pytest

import hf_videollm
from hf_videollm.models.errors import one_line

PACKAGE = Path(hf_videollm.__file__).parent
# These two import nothing of `models`: a refused pickle has a process of its own, and an error of the command line
# must not wait for transformers.
BY_HAND = {"convert/pickle_child.py", "cli/errors.py"}
JOINED = re.compile(r"""(["']) \1\.join\(str\(\w+\)\.split\(\)\)""")


@pytest.mark.parametrize("seed", range(20))
def test_any_message_becomes_one_line(seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choice("ab. \n\t\r\x0b\u2028") for _ in range(rng.randrange(60)))
    whole = one_line(ValueError(text))
    assert whole.split() == (text.split() or ["ValueError"])
    assert len(whole.splitlines()) == 1
    assert whole == whole.strip()
    limit = rng.randrange(1, 40)
    cut = one_line(ValueError(text), limit)
    assert cut == "ValueError" or (len(cut) <= limit and whole.startswith(cut))
    assert not cut.endswith((" ", "."))


def test_an_error_without_a_message_has_the_name_of_its_class() -> None:
    assert one_line(KeyError()) == one_line(KeyError(), 3) == "KeyError"
    assert one_line(OSError("..."), 10) == "OSError"


def test_nobody_does_it_by_hand() -> None:
    files = {file.relative_to(PACKAGE).as_posix(): file.read_text() for file in PACKAGE.rglob("*.py")}
    found = {name for name, text in files.items() if JOINED.search(text) and name != "models/errors.py"}
    assert found == BY_HAND
