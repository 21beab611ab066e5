"""A ready interpreter does what a new one does, apart from the libraries that it has loaded already."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ready_python

SUPPORT = Path(ready_python.__file__).parent
SEEN = """
import json, os, sys
print(json.dumps([sys.argv, sys.path, os.getcwd(), __name__, sys.stdin.read(), os.environ.get("OF_THE_JOB")]))
"""
# The second test takes longer, and not in its own process.
LISTED = """
import subprocess, sys
def test_short(): pass
def test_long(): subprocess.run([sys.executable, "-c", "for i in range(10**7): pass"], check=True)
"""


@pytest.mark.parametrize("form", ["-c", "-m", "file", "-P"])
def test_a_program_sees_what_it_sees_in_a_new_interpreter(form: str, tmp_path: Path) -> None:
    (tmp_path / "programs").mkdir()
    file = tmp_path / "programs" / "seen.py"
    file.write_text(SEEN)
    start = {"-c": ["-c", SEEN], "-m": ["-m", "programs.seen"], "file": [str(file)], "-P": ["-P", str(file)]}[form]
    arguments = [*start, "one", "--two"]
    environment = {**os.environ, "OF_THE_JOB": "yes"}
    ready = ready_python.run(*arguments, cwd=tmp_path, env=environment, input="words")
    command = [sys.executable, *arguments]
    new = subprocess.run(command, cwd=tmp_path, env=environment, input="words", capture_output=True, text=True)
    assert json.loads(ready.stdout) == json.loads(new.stdout)
    assert (ready.returncode, ready.stderr) == (new.returncode, new.stderr) == (0, "")


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('no such video')", 1, "no such video\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import atexit, sys; atexit.register(print, 'at the end', file=sys.stderr)", 0, "at the end\n"),
        ("import warnings; warnings.warn('old', FutureWarning)", 0, "FutureWarning: old\n"),
    ],
)
def test_it_ends_as_a_new_interpreter_does(code: str, status: int, words: str) -> None:
    done = ready_python.run("-c", code)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.endswith(words)
    assert bool(done.stderr) == bool(words)


def test_jobs_leave_each_other_alone(tmp_path: Path) -> None:
    """What one job imports, changes or draws is unknown to the next. Libraries are there, the package is not."""
    code = """
import json, os, random, sys
print(json.dumps([[name in sys.modules for name in ("torch", "transformers", "hf_videollm")], random.random()]))
import hf_videollm
os.environ["OF_THE_JOB"], sys.modules["torch"] = "yes", None
"""
    first, second = (json.loads(ready_python.run("-c", code).stdout) for _ in range(2))
    assert first[0] == second[0] == [True, True, False]
    assert first[1] != second[1]


def test_each_job_has_its_own_cache_of_remote_code(tmp_path: Path) -> None:
    code = "from transformers import dynamic_module_utils as utils; print(utils.HF_MODULES_CACHE)"
    for name in ("one", "two"):
        environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / name)}
        assert ready_python.run("-c", code, env=environment).stdout.strip() == str(tmp_path / name)


def test_what_libraries_read_while_they_are_imported_is_refused() -> None:
    with pytest.raises(ValueError, match="HF_HOME: read while libraries are imported"):
        ready_python.run("-c", "pass", env={**os.environ, "HF_HOME": "/elsewhere"})


def test_a_job_without_transformers_may_have_variables_of_its_own() -> None:
    """A control of the test above. Torch is there, nothing of Hugging Face is."""
    code = "import sys; print([name in sys.modules for name in ('torch', 'transformers', 'huggingface_hub')])"
    code += "; from huggingface_hub import constants; print(constants.HF_HOME)"
    environment = {**os.environ, "HF_HOME": "/elsewhere"}
    done = ready_python.run("-c", code, env=environment, with_transformers=False)
    assert done.stdout.splitlines() == ["[True, False, False]", "/elsewhere"], done.stderr
    with pytest.raises(ValueError, match="OMP_NUM_THREADS: read while"):
        ready_python.run("-c", "pass", env={**environment, "OMP_NUM_THREADS": "3"}, with_transformers=False)


def test_jobs_run_at_the_same_time(tmp_path: Path) -> None:
    """The first waits for the second, and is killed after it."""
    os.mkfifo(tmp_path / "pipe")
    waiting = ready_python.start(
        "-c", "open('pipe').read(); open('came', 'w'); import time; time.sleep(60)", cwd=tmp_path
    )
    assert waiting.poll() is None
    assert ready_python.run("-c", "open('pipe', 'w').write('x')", cwd=tmp_path).returncode == 0
    with pytest.raises(subprocess.TimeoutExpired):
        ready_python.run("-c", "import time; time.sleep(60)", timeout=0.2)
    waiting.kill()
    assert waiting.wait() == -signal.SIGKILL


def test_the_list_of_slow_tests_counts_the_processes_of_a_test(tmp_path: Path) -> None:
    (tmp_path / "test_listed.py").write_text(LISTED)
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    options = ["-p", "cpu_seconds", "--cpu-durations", "1", "-p", "no:cacheprovider", "-q"]
    done = ready_python.run("-m", "pytest", *options, "test_listed.py", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout
    (listed,) = [line.split() for line in done.stdout.splitlines() if "::" in line]
    assert listed[1] == "test_listed.py::test_long"
    assert float(listed[0]) > 0.05
