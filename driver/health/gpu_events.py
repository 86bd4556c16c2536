"""What an operator is told of the GPUs' health: an Event on the Node for what begins and for what is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.health.conditions import difference
from driver.health.report import describe
from driver.health.xids import Severity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.health.conditions import Conditions
    from driver.kube import NodeEvents


def tell_difference(events: NodeEvents, before: Conditions, after: Conditions, *, names: Mapping[str, str]) -> None:
    """Tell what has changed. ``names``: of devices, by GPU UUID."""
    for uuid, condition, begins in difference(before, after):
        if condition.severity > Severity.INFORMATION:  # what a program did to itself is in the log
            what = f"{names.get(uuid, 'a GPU')} ({uuid}): {describe(condition)}"
            if begins:
                events.warn("GpuFault", what)
            else:
                events.tell("Normal", "GpuFaultOver", f"{what}: this is over")
