"""From conditions to device taints."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from driver.hardware import Cause
from driver.health.conditions import worst_by_cause
from driver.health.xids import Severity

if TYPE_CHECKING:
    from driver.health.conditions import Condition


class Effect(enum.StrEnum):
    """What a taint does to claims that do not tolerate it, as in the API."""

    NONE = "None"
    NO_SCHEDULE = "NoSchedule"
    NO_EXECUTE = "NoExecute"


Effects = Mapping[tuple[Cause, Severity], Effect]
"""The table by which conditions become taints; a row that is missing means Effect.NONE."""

DEFAULT_EFFECTS: Effects = MappingProxyType(
    {
        (Cause.XID, Severity.INFORMATION): Effect.NONE,
        (Cause.XID, Severity.DEGRADED): Effect.NO_SCHEDULE,
        (Cause.XID, Severity.UNUSABLE): Effect.NO_EXECUTE,
        (Cause.ECC, Severity.DEGRADED): Effect.NO_SCHEDULE,
        (Cause.GPU_LOST, Severity.UNUSABLE): Effect.NO_EXECUTE,
        (Cause.UNMONITORED, Severity.INFORMATION): Effect.NONE,
        (Cause.REPAIR, Severity.INFORMATION): Effect.NONE,
        (Cause.REPAIR, Severity.DEGRADED): Effect.NO_SCHEDULE,
        (Cause.INCOMPLETE, Severity.INFORMATION): Effect.NONE,
        (Cause.INCOMPLETE, Severity.DEGRADED): Effect.NO_SCHEDULE,
    }
)

_NOT_IN_LABEL = re.compile(r"[^A-Za-z0-9_.-]")
MAX_LABEL_VALUE = 63


def device_taints(
    conditions: tuple[Condition, ...], *, driver_name: str, effects: Effects = DEFAULT_EFFECTS
) -> list[dict[str, Any]]:
    """Taints of one device as the API takes them: one for each cause, so at most six of the 16 that fit.

    Key ``<driver name>/<cause>``; value: the XID number or the error class; ``timeAdded``: when the condition began,
    so that it stays the same however often the slice is written.
    """
    result: list[dict[str, Any]] = []
    for cause, condition in sorted(worst_by_cause(conditions).items()):
        taint: dict[str, Any] = {"key": f"{driver_name}/{cause}"}
        if value := _label_value(condition.fault.detail):
            taint["value"] = value
        taint["effect"] = str(effects.get((cause, condition.severity), Effect.NONE))
        taint["timeAdded"] = condition.since_text
        result.append(taint)
    return result


def _label_value(text: str) -> str:
    """The nearest valid label value."""
    return _NOT_IN_LABEL.sub("-", text)[:MAX_LABEL_VALUE].strip("-_.")
