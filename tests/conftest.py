"""Options of the tests, and what they say of themselves: which suites there are, what was skipped for want of what."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from _pytest.tmpdir import get_user

import driver  # noqa: F401 - before any test imports gRPC, as in a program of ours
from tests import needs
from tests.short import short_directory

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOM = 24
"""Bytes that the directory of a user's tests may have: what is below has sockets, whose paths end at 107."""
ANNOUNCED = pytest.StashKey[bool]()
NOTHING_WAS_TESTED = pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two more than there are processors: the tests of the driver's process wait about as much as they work."""
    return len(os.sched_getaffinity(0)) + 2


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Room for sockets below every ``tmp_path``; a cluster that cannot be used is one line, not one for each test."""
    if not config.option.basetemp and len(os.fsencode(usual_place())) > ROOM:  # a worker has it from who started it
        made = contextlib.ExitStack()
        config.option.basetemp = str(made.enter_context(short_directory()))
        config.add_cleanup(made.close)
    if config.getoption("--kubeconfig") and not hasattr(config, "workerinput"):
        from tests.e2e import real

        real.look(config.getoption)


def usual_place() -> str:
    """Where pytest keeps what tests of this user write."""
    root = os.environ.get("PYTEST_DEBUG_TEMPROOT") or tempfile.gettempdir()
    return f"{root}/pytest-of-{get_user() or 'unknown'}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: object, ids: list[str]) -> None:
    """The suites and how many tests each has, once: every worker has collected the same."""
    config: pytest.Config = node.config  # type: ignore[attr-defined]
    if not config.stash.get(ANNOUNCED, False):
        config.stash[ANNOUNCED] = True
        terminal = config.get_terminal_writer()
        over = "\r" if terminal.hasmarkup else ""  # a terminal has a passing line of xdist there
        terminal.line(f"{over}{len(ids)} tests: {per_suite(ids)}")


def per_suite(ids: Iterable[str]) -> str:
    """``unit 2670, contract 240``: the tests by the folder that they are in."""
    counts = Counter(test.removeprefix("tests/").split("::")[0].split("/")[0] for test in ids)
    return ", ".join(f"{suite} {count}" for suite, count in counts.most_common())


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was skipped for want of what."""
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", [])]
    if reasons:
        terminalreporter.write_line(needs.summary(reasons))
    if terminalreporter.config.option.must_run and not terminalreporter.stats.get("passed"):
        terminalreporter.write_line("nothing was tested", red=True, bold=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run that has to prove something has failed when it did not."""
    if session.config.option.must_run and session.exitstatus == pytest.ExitCode.OK:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and not reporter.stats.get("passed"):
            session.exitstatus = NOTHING_WAS_TESTED


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--must-run", action="store_true", help="fail when every test was skipped")
    group = parser.getgroup("e2e", "e2e tests on a real cluster, where the driver runs already")
    group.addoption("--kubeconfig", metavar="FILE", help="the cluster; without it the embedded one is used")
    group.addoption("--image", metavar="REF", help="an image with a shell, in place of the one of the examples")
    group.addoption("--node", metavar="NAME", help="the node whose GPUs the tests may use (default: the only one)")
    group.addoption(
        "--fault-command",
        metavar="COMMAND",
        help="how to break a fake GPU (default: 'gpu-dra fault' in the driver's pod); --device NAME --xid N or --clear "
        "is appended",
    )
    group.addoption(
        "--restart-command",
        metavar="COMMAND",
        help="how to stop the driver of the node at once and start it again (default: its pod is deleted)",
    )
    group.addoption(
        "--driver-labels",
        metavar="SELECTOR",
        default="app.kubernetes.io/name=gpu-dra-driver",
        help="labels of the driver's pods (default: those of the chart)",
    )
