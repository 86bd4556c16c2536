from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.breaking import HIT
from tests.faults.rig import Launcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def launcher() -> AsyncIterator[Launcher]:
    async with Launcher() as launcher:
        yield launcher


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which effects were hit, and how often."""
    if not HIT:
        return
    actions = sorted({action for action, _ in HIT})
    points = sorted({point for _, point in HIT})
    terminalreporter.section("effects that were disturbed", sep="-")
    terminalreporter.write_line(f"{len(points)} effects, {HIT.total()} faults: " + ", ".join(actions))
    if terminalreporter.verbosity > 0:
        for point in points:
            counts = ", ".join(f"{action} {HIT[action, point]}" for action in actions if HIT[action, point])
            terminalreporter.write_line(f"  {point}: {counts}")
