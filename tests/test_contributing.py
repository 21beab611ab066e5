"""What outsiders read first is true: workflows, templates, CITATION.cff and CONTRIBUTING.md name what is there."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_videollm.designs import DESIGNS

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.append(str(REPOSITORY / "tools"))

from lock import PYTHONS  # noqa: E402

GITHUB = REPOSITORY / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = [path for path in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]
ADDITIONS = ["design", "converter", "benchmark", "data format", "training stage"]
PAPERS = {"2404.16994", "2406.07476", "2412.05185", "2402.13546", "2406.08024"}
# An action by the hash of its commit, which nobody can move, and the release that it is.
PINNED = re.compile(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")


def read(path: str) -> str:
    return (REPOSITORY / path).read_text(encoding="utf-8")


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", read("Makefile"), re.MULTILINE))


def targets_of(commands: str) -> list[str]:
    """Targets of the `make` commands of a text; words with a capital letter or a sign are variables and the like."""
    calls = re.findall(r"^\s*make((?: [\w=./-]+)*)", commands, re.MULTILINE)
    return [word for call in calls for word in call.split() if re.fullmatch(r"[a-z][a-z-]*", word)]


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def commands_of(job: dict[str, Any]) -> list[str]:
    """The commands of a job, once for each row of its matrix."""
    rows: list[dict[str, str]] = [{}]
    for key, values in job.get("strategy", {}).get("matrix", {}).items():
        rows = [{**row, key: value} for row in rows for value in values]
    runs = [(step["run"], row) for row in rows for step in job["steps"] if "run" in step]
    return [re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda match, row=row: row[match[1]], run) for run, row in runs]


def commands_in(path: Path) -> list[str]:
    return [command for job in load(path)["jobs"].values() for command in commands_of(job)]


# Workflows


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_make_alone_with_targets_that_exist(path: Path) -> None:
    commands = commands_in(path)
    assert commands
    for command in commands:
        assert re.fullmatch(r"make [a-z-]+", command), command
        assert targets_of(command)[0] in make_targets()


def test_a_target_that_does_not_exist_would_be_seen() -> None:
    """A control of all tests about targets."""
    assert targets_of("make lint types PYTEST_WORKERS=4  # all\nmake no-such\nsee make") == ["lint", "types", "no-such"]
    assert "no-such" not in make_targets()
    job = {"strategy": {"matrix": {"a": ["x", "y"]}}, "steps": [{"run": "make ${{ matrix.a }}"}, {"uses": "z"}]}
    assert commands_of(job) == ["make x", "make y"]


def test_changes_pass_on_github_what_they_pass_here() -> None:
    """The workflow of pull requests runs all that `.ci/run` runs; the weekly one what depends on releases."""
    here = targets_of(read(".ci/run"))
    checks = load(GITHUB / "workflows" / "checks.yml")
    assert len(here) >= 4
    assert set(here) == set(targets_of("\n".join(commands_in(GITHUB / "workflows" / "checks.yml"))))
    assert checks["jobs"]["tests"]["strategy"]["matrix"]["python"] == [PYTHONS[0], PYTHONS[-1]]
    weekly = load(GITHUB / "workflows" / "weekly.yml")
    # YAML 1.1 reads the key `on` as a truth value.
    assert "schedule" in weekly[True]  # type: ignore[index]
    assert {"make test-newest", "make test-floor"} <= set(commands_in(GITHUB / "workflows" / "weekly.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_only_read_end_in_time_and_run_fixed_code(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert 0 < job["timeout-minutes"] <= 120
        setups = [step["with"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
        assert [setup["cache"] for setup in setups] == ["pip"]
        assert all((REPOSITORY / name).is_file() for name in setups[0]["cache-dependency-path"].split())
    uses = re.findall(r"^\s*(?:- )?(uses:.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert uses
    assert [line for line in uses if not PINNED.fullmatch(line)] == []


@pytest.mark.parametrize("version", ["v6", "v6.0.3", "main", "df4cb1c", "df4cb1c069e1874edd31b4311f1884172cec0e10"])
def test_an_action_that_can_move_or_names_no_release_would_be_seen(version: str) -> None:
    assert not PINNED.fullmatch(f"uses: actions/checkout@{version}")


# Templates


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_ask_each_question_once(path: Path) -> None:
    form = load(path)
    assert form["name"]
    assert form["description"]
    questions = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in questions}) == len(questions)
    assert any(field.get("validations", {}).get("required") for field in questions)
    assert all(field["attributes"]["options"] for field in questions if field["type"] in ("dropdown", "checkboxes"))


def test_the_template_of_pull_requests_asks_for_targets_that_exist() -> None:
    targets = targets_of("\n".join(re.findall(r"`(make [^`]+)`", read(".github/PULL_REQUEST_TEMPLATE.md"))))
    assert targets
    assert set(targets) <= make_targets()


# CITATION.cff


def test_the_citation_names_the_five_papers() -> None:
    citation = load(REPOSITORY / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"title", "message", "authors"} <= citation.keys()
    papers = {paper["url"].rpartition("/")[2]: paper for paper in citation["references"]}
    assert papers.keys() == PAPERS
    for number, paper in papers.items():
        assert paper["doi"] == f"10.48550/arXiv.{number}"
        assert paper["year"] == 2000 + int(number[:2])
        assert paper["title"].strip()
        assert len(paper["authors"]) > 3
        assert all(author.keys() == {"family-names", "given-names"} for author in paper["authors"])
    # The table of designs has one row more, for the image-LLM XGen-MM, which is not one of the five papers.
    assert {design.paper for design in DESIGNS.values() if design.name != "xgen_mm"} == PAPERS


# CONTRIBUTING.md


def tree_of(text: str) -> dict[str, str]:
    """Path -> explanation of every line of the drawn tree; two blanks of indentation for each folder around it."""
    block = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert block is not None
    rows, above = {}, [""]
    for line in block[1].splitlines():
        name, _, explanation = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        above = [*above[: depth + 1], above[depth] + name]
        rows[above[-1]] = explanation.strip()
    return rows


def is_there(path: str) -> bool:
    """Whether a path is a folder (where it ends in a slash) or a file; `<design>` stands for any text."""
    found = list(REPOSITORY.glob(re.sub(r"<\w+>", "*", path)))
    return bool(found) and all(one.is_dir() == path.endswith("/") for one in found)


def paths_in(text: str) -> set[str]:
    """Paths in backticks: what has a slash and begins at a folder of the repository."""
    return set(re.findall(r"`((?:src|tests|docs|examples|benchmarks|tools|requirements|\.github|\.ci)/[^`\s]*)`", text))


def test_the_tree_is_the_real_one() -> None:
    rows = tree_of(read("CONTRIBUTING.md"))
    assert len(rows) > 15
    assert [path for path in rows if not is_there(path)] == []
    # Only a folder whose parts are explained may go without a word.
    unexplained = [path for path, explanation in rows.items() if not explanation]
    assert [path for path in unexplained if not any(other.startswith(path) for other in rows if other != path)] == []


@pytest.mark.parametrize("parent", ["src/hf_videollm/", "tests/"])
def test_the_tree_lacks_no_folder(parent: str) -> None:
    files = [path.relative_to(REPOSITORY / parent) for path in (REPOSITORY / parent).glob("*/**/*.*")]
    folders = {f"{parent}{path.parts[0]}/" for path in files if "__pycache__" not in path.parts}
    assert len(folders) > 4
    assert folders - tree_of(read("CONTRIBUTING.md")).keys() == set(), "draw these folders in CONTRIBUTING.md"


def test_a_path_that_does_not_exist_would_be_seen() -> None:
    """A control of the tests about the tree and about paths."""
    rows = tree_of(
        "```text\nsrc/hf_videollm/\n  models/   designs\n    no.py   none\n  hub    a folder\ntests/  t\n```"
    )
    package = "src/hf_videollm/"
    assert list(rows) == [package, f"{package}models/", f"{package}models/no.py", f"{package}hub", "tests/"]
    assert [path for path in rows if not is_there(path)] == [f"{package}models/no.py", f"{package}hub"]
    assert paths_in("`tests/a.py`, `models/b.py` and `src/<x>_c.py`") == {"tests/a.py", "src/<x>_c.py"}
    assert is_there("tests/models/test_<design>_invariants.py")
    assert not is_there("tests/models/test_<design>_no_such.py")


def test_paths_and_targets_of_contributing_exist() -> None:
    text = read("CONTRIBUTING.md")
    assert len(paths_in(text)) > 15
    assert [path for path in sorted(paths_in(text)) if not is_there(path)] == []
    assert len(targets_of(text)) > 5
    assert set(targets_of(text)) <= make_targets()


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_the_examples_of_the_checklists_are_commits_of_this_history() -> None:
    if not (REPOSITORY / ".git").exists() or git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("the history is not here")
    named = re.findall(r"`([0-9a-f]{7,40})`", read("CONTRIBUTING.md"))
    assert len(named) > 15
    assert [commit for commit in named if git("merge-base", "--is-ancestor", commit, "HEAD").returncode] == []
    # The control.
    assert git("merge-base", "--is-ancestor", "0" * 40, "HEAD").returncode


def test_every_checklist_names_what_it_asks_for() -> None:
    _, *lists = read("CONTRIBUTING.md").partition("## Checklists")[2].split("\n### ")
    assert [one.partition("\n")[0].rpartition(" a ")[2] for one in lists] == ADDITIONS
    assert all(one.count("\n- [ ] ") > 2 for one in lists)
    form = load(GITHUB / "ISSUE_TEMPLATE" / "feature.yml")
    kinds = next(field for field in form["body"] if field.get("id") == "kind")["attributes"]["options"]
    assert kinds[:-1] == ADDITIONS
