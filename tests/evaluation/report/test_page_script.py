"""The page's filter, run by node on a stand-in of a browser: the cards that fit are shown, and no others."""

import json
import shutil
import subprocess
from typing import Any

import pytest

from hf_videollm.evaluation.report.page_parts import SCRIPT

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node runs the script of the page")

# What the script asks of a browser.
BROWSER = """
const made = %s.map(([task, states, text]) => ({dataset: {task, states}, textContent: text, hidden: false}));
const element = value => ({
  value, listeners: [], textContent: '', options: [],
  addEventListener(_, does) { this.listeners.push(does); },
  replaceChildren(...options) { this.options = options; this.value = options[0].value; },
});
const elements = {
  task: element(%s), state: element('all'), run: element(''), text: element(''), count: element(''),
  runs: {textContent: %s},
};
globalThis.Option = class { constructor(label, value) { this.label = label; this.value = value; } };
globalThis.document = {
  querySelectorAll: () => made,
  getElementById: name => elements[name],
};
"""
STEPS = """
const shown = [];
for (const [name, value] of %s) {
  elements[name].value = value;
  elements[name].listeners.forEach(does => does());
  shown.push([cards.map(card => !card.hidden), elements.count.textContent, elements.run.options.map(o => o.label)]);
}
console.log(JSON.stringify(shown));
"""
CARDS = [
    ("a", "right wrong", "A red dog"),
    ("a", "wrong wrong", "A blue cat"),
    ("b", "right error", "A green dog"),
]
RUNS = {"a": ["one", "two"], "b": ["one", "three"]}


def after(steps: list[tuple[str, str]], task: str = "") -> list[Any]:
    """Which cards are shown after each change of a filter, the count, and the names of runs to choose from."""
    browser = BROWSER % (json.dumps(CARDS), json.dumps(task), json.dumps(json.dumps(RUNS)))
    program = browser + SCRIPT + STEPS % json.dumps(steps)
    done = subprocess.run(["node", "-"], input=program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("steps", "shown"),
    [
        ([("state", "all")], [True, True, True]),
        ([("state", "right")], [True, False, True]),
        ([("state", "error")], [False, False, True]),
        ([("state", "differ")], [True, False, True]),
        ([("task", "a"), ("state", "right"), ("run", "1")], [False, False, False]),
        ([("task", "a"), ("state", "right"), ("run", "0")], [True, False, False]),
        ([("text", "DOG")], [True, False, True]),
        ([("task", "b"), ("text", "dog")], [False, False, True]),
    ],
)
def test_the_filter_shows_what_fits(steps: list[tuple[str, str]], shown: list[bool]) -> None:
    found, count, _ = after(steps)[-1]
    assert found == shown
    assert count == f"{sum(shown)} of 3 items"


def test_the_runs_are_those_of_the_task() -> None:
    (_, _, all_tasks), (_, _, one) = after([("task", ""), ("task", "b")])
    assert all_tasks == ["any run"]
    assert one == ["any run", "one", "three"]
