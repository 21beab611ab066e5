"""`hf-videollm judge-agreement`, and the options that every command with a judge has."""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from build_llms import write_llm
from judge_server import Answer, Messages, judge_server

from hf_videollm.cli.judge import judge_agreement
from hf_videollm.cli.judge_options import JudgeOptions
from hf_videollm.evaluation.judges.policies import get_policy

Cli = Callable[..., tuple[int, str, str]]
WORDS = ["a red car", "no", "a dog", "two"]
KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def labels(tmp_path: Path) -> str:
    """Four right answers, three of them written as they should be, and one that people find wrong."""
    rows = [
        {"id": str(i), "question": f"What is {i}?", "answer": word, "prediction": word, "label": "yes", "score": 5}
        for i, word in enumerate(WORDS)
    ]
    rows[2] |= {"prediction": "a puppy", "score": 4}
    rows.append(
        {"id": "wrong", "question": "What is 4?", "answer": "red", "prediction": "blue", "label": "no", "score": 0}
    )
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def reply(messages: Messages) -> Answer:
    number = int(messages[-1]["content"].split("What is ")[1].split("?")[0])
    return Answer(str({"pred": "no" if number == 4 else "yes", "score": 0 if number == 4 else 5}))


def test_the_rule_needs_nothing_and_says_that_it_is_a_rule(cli: Cli, labels: str) -> None:
    code, out, err = cli("judge-agreement", labels, "--judge", "rule", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    # Words do not tell that a puppy is a dog.
    assert report["confusion"] == {"yes": {"yes": 3, "no": 1, "error": 0}, "no": {"yes": 0, "no": 1, "error": 0}}
    assert (report["judge"]["judge"], report["judge"]["judge_model"]) == ("rule", "word overlap")
    assert report["accuracy"] == 0.8
    code, out, err = cli("judge-agreement", labels, "--judge", "rule")
    assert code == 0
    assert "rule: word overlap" in out
    assert "0.800" in out


def test_an_endpoint_is_asked_once(cli: Cli, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    cache = tmp_path / "replies.jsonl"
    with judge_server(reply=reply) as server:
        arguments = ["judge-agreement", labels, "--judge", "openai", "--judge-model", "m", "--judge-url", server.url]
        arguments += [
            "--judge-key-variable",
            "MY_KEY",
            "--judge-cache",
            str(cache),
            "--judge-policy",
            "pllava",
            "--json",
        ]
        runs = [cli(*arguments) for _ in range(2)]
        assert server.calls == 5
    assert runs[0] == runs[1]
    code, out, err = runs[0]
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["accuracy"], report["kappa"], report["judge"]["policy"]["name"]) == (1.0, 1.0, "pllava")
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert KEY not in out + cache.read_text()


def test_a_broken_line_of_the_cache_is_told(cli: Cli, labels: str, tmp_path: Path) -> None:
    cache = tmp_path / "replies.jsonl"
    cache.write_text('{"key": "abc", "rep')
    with judge_server(reply=reply) as server:
        arguments = ["--judge", "openai", "--judge-model", "m", "--judge-url", server.url, "--judge-cache", str(cache)]
        code, _, err = cli("judge-agreement", labels, *arguments, "--json")
    assert (code, err) == (0, f"note: {cache}: line 1 was written half and is left out.\n")


def test_a_local_model_judges(cli: Cli, labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_llm(tmp_path / "llm", "olmo2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    capsys.readouterr()  # what writing the model has printed
    options = ["--judge", "local", "--judge-model", str(folder), "--judge-policy", "lmms_eval", "--json"]
    code, out, err = cli("judge-agreement", labels, *options)
    # The progress bar of transformers 5.20 ends its line even where it shows nothing.
    assert (code, err.strip()) == (0, "")
    # Its weights are random: it never says yes or no, and none of that is lost.
    report = json.loads(out)
    assert (report["judged"], report["judge_errors"], report["accuracy"]) == (0, 5, None)


WRONG = [
    ("", "--judge must be given: take openai, local or rule"),
    ("--judge gpt", "--judge gpt is none: take openai, local or rule"),
    ("--judge openai", "The policy robust names no model: pass --judge-model"),
    ("--judge openai --judge-model m", "set the environment variable OPENAI_API_KEY"),
    ("--judge openai --judge-policy pllava", "set the environment variable OPENAI_API_KEY"),
    ("--judge openai --judge-model m --judge-key-variable NO_KEY", "set the environment variable NO_KEY"),
    ("--judge openai --judge-model m --judge-url x.org", "The judge's address 'x.org' is none"),
    ("--judge openai --judge-model m --judge-rate 0", "--judge-rate 0.0 must be a number above 0"),
    ("--judge openai --judge-model m --judge-timeout nan", "--judge-timeout nan must be"),
    ("--judge rule --judge-policy plava", "did you mean pllava"),
    ("--judge rule --judge-text qu", "no judge text 'qu'"),
    ("--judge rule --judge-text vcg_pllava_detail", "--judge-text vcg_pllava_detail asks for no verdict"),
    ("--judge rule --judge-model m", "--judge rule has no use for --judge-model"),
    ("--judge rule --judge-cache x", "--judge rule has no use for --judge-cache"),
    ("--judge rule --judge-budget 3", "--judge rule has no use for --judge-budget"),
    ("--judge local", "--judge local needs a model: pass --judge-model"),
    ("--judge local --judge-model ./nowhere", "./nowhere"),
    ("--judge local --judge-model m --judge-url http://x/v1", "--judge local has no use for --judge-url"),
]


@pytest.mark.parametrize(("line", "named"), WRONG)
def test_wrong_options_are_one_line(cli: Cli, labels: str, line: str, named: str) -> None:
    code, out, err = cli("judge-agreement", labels, *line.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("error: ")
    assert named in err


def test_a_wrong_file_is_told_before_the_judge_is_made(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("judge-agreement", str(tmp_path / "gone"), "--judge", "openai", "--judge-model", "m")
    assert (code, "gone: no such file of human labels" in err) == (2, True)


def test_a_budget_that_ends_says_what_is_kept(cli: Cli, labels: str, tmp_path: Path) -> None:
    cache = tmp_path / "replies.jsonl"
    with judge_server(reply=reply) as server:
        given = ["--judge", "openai", "--judge-model", "m", "--judge-url", server.url, "--judge-budget", "2"]
        code, out, err = cli("judge-agreement", labels, *given, "--judge-cache", str(cache))
        assert (code, out) == (2, "")
        assert f"budget of 2 calls is used up. 2 of 5 items are judged; {cache} keeps the replies" in err
        code, _, err = cli("judge-agreement", labels, *given)
        assert "pass a cache (--judge-cache)" in err
        # What was kept is used: five answers need only three more calls.
        given[-1] = "3"
        code, _, err = cli("judge-agreement", labels, *given, "--judge-cache", str(cache))
    assert (code, err, server.calls) == (0, "", 7)


def test_a_refused_key_is_one_line_that_names_the_variable(
    cli: Cli, labels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with judge_server([Answer(status=401, error={"message": f"bad {KEY}"})] * 9) as server:
        arguments = ["--judge", "openai", "--judge-model", "m", "--judge-url", server.url]
        code, _, err = cli("judge-agreement", labels, *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert "refuses the key (401): check the environment variable OPENAI_API_KEY" in err
    assert KEY not in err


def test_options_give_what_a_run_needs() -> None:
    """How another command uses them."""
    options = JudgeOptions(judge="openai", judge_url="http://localhost:1/v1", judge_budget=7, judge_concurrency=3)
    policy = options.policy("pllava")
    judge: Any = options.make(policy)
    assert (judge.model, judge.base_url, judge.budget.calls) == (policy.model, "http://localhost:1/v1", 7)
    # Another policy of the same command draws on the same budget.
    assert options.make(options.policy("lmms_eval")).budget is judge.budget  # type: ignore[attr-defined]
    assert (options.concurrency(), JudgeOptions(judge="rule").concurrency()) == (3, 1)
    assert JudgeOptions(judge="rule", judge_policy="iva").policy("pllava") == get_policy("iva")
    with JudgeOptions(judge="rule").open_cache() as cache:
        assert cache is None


def test_no_option_takes_a_key() -> None:
    """A key on a command line is seen by everybody on the machine, and stays in the history of the shell."""
    names = set(inspect.signature(judge_agreement).parameters)
    assert "judge_key_variable" in names
    assert not {name for name in names if "key" in name} - {"judge_key_variable"}


def test_a_judge_loads_no_large_library() -> None:
    """The rule judge runs without torch, and the endpoint's judge with requests alone."""
    code = (
        "import sys\n"
        "from hf_videollm.cli.judge_options import JudgeOptions\n"
        "import hf_videollm.evaluation.judges.run, hf_videollm.evaluation.judges.agreement\n"
        "JudgeOptions(judge='rule').make()\n"
        "JudgeOptions(judge='openai', judge_model='m', judge_url='http://localhost:1/v1').make()\n"
        "import hf_videollm.evaluation.judges.backends.local\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])\n"
        "import numpy\n"
        "print('numpy' in sys.modules)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split("\n")[:2] == ["[]", "True"]  # the second is the control
