"""`--cpu-durations N` lists the tests that take most CPU seconds, with their fixtures and the processes they start.

Unlike the time on a clock, these seconds hardly depend on what else the machine does.
"""

import resource
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest
import ready_python

LAST = pytest.StashKey[float]()
# In the process that reports: test -> its seconds, and the seconds of all processes.
by_test: Counter[str] = Counter()
of_workers: list[float] = []


def spent() -> float:
    """CPU seconds of this process, and of those that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) + ready_python.cpu_seconds


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("reporting").addoption(
        "--cpu-durations", type=int, default=0, metavar="N", help="list the N tests that take most CPU seconds"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[LAST] = spent()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Each report has the seconds since the one before; it carries them to the process that reports."""
    report = yield
    now = spent()
    report.cpu_seconds = now - item.stash[LAST]
    item.stash[LAST] = now
    return report


def pytest_runtest_logreport(report: Any) -> None:
    by_test[report.nodeid] += report.cpu_seconds


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    ready_python.stop()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["cpu_seconds"] = spent()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    of_workers.append(getattr(node, "workeroutput", {}).get("cpu_seconds", 0.0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not (count := config.getoption("--cpu-durations")):
        return
    terminalreporter.section(f"slowest {count} tests in CPU seconds")
    for name, seconds in by_test.most_common(count):
        terminalreporter.write_line(f"{seconds:8.2f}  {name}")
    everything = sum(of_workers) or spent()
    terminalreporter.write_line(
        f"{sum(by_test.values()):8.2f}  all tests; {everything:.2f} with imports and collection"
    )
