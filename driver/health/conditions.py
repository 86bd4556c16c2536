"""What is wrong with which GPU, since when: a fold over the events of a backend."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from driver.hardware import Account, Cause, Cleared, Event, Fault, Occurred, Quiet
from driver.health import xids
from driver.health.xids import NO_RULES, Severity, XidRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One fault of one GPU, from its first occurrence until it is cleared."""

    fault: Fault
    since: int
    """Unix seconds."""
    recovery: str | None = None
    """What the GPU asks for to get over an XID, as it said last; None where it does not tell."""
    ruled: Severity | None = None
    """How bad the administrator says that this is."""

    @property
    def severity(self) -> Severity:
        """How bad this is."""
        return severity(self.fault, self.recovery) if self.ruled is None else self.ruled

    @property
    def since_text(self) -> str:
        """``since`` as the API server writes times: RFC 3339, UTC, whole seconds."""
        return dt.datetime.fromtimestamp(self.since, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Conditions = Mapping[str, tuple[Condition, ...]]
"""By GPU UUID, in order of appearance; a GPU that is well has no entry."""


def fold(conditions: Conditions, event: Event, now: float, *, rules: XidRules = NO_RULES) -> Conditions:
    """Conditions after an event; the very same object when nothing changed.

    A fault that repeats keeps its ``since``; a harmless fault never takes the place of a bad one. A GPU that was lost
    and is well again has been reset in between, and that ends every error of before, whether or not it says so.
    """
    if isinstance(event, Occurred):
        after = rule(_replace(conditions, event.gpu_uuid, frozenset({event.fault}), now, keep_others=True), rules)
        return after if event.recovery is None else _account(after, event.gpu_uuid, event.recovery)
    if isinstance(event, Account):
        return _account(conditions, event.gpu_uuid, event.recovery)
    if isinstance(event, Cleared):
        others = frozenset(c.fault for c in conditions.get(event.gpu_uuid, ()))
        kept = frozenset(f for f in others if event.causes is not None and f.cause not in event.causes)
        if any(f.cause is Cause.GPU_LOST for f in others) and not any(map(severity, event.remaining)):
            kept = frozenset(f for f in kept if f.cause not in (Cause.XID, Cause.ECC))
        return rule(_replace(conditions, event.gpu_uuid, event.remaining | kept, now, keep_others=False), rules)
    if isinstance(event, Quiet):
        lasting = frozenset(c.fault for c in conditions.get(event.gpu_uuid, ()) if not _passes(c))
        return _replace(conditions, event.gpu_uuid, lasting, now, keep_others=False)
    return conditions


def rule(conditions: Conditions, rules: XidRules) -> Conditions:
    """The same conditions as an administrator judges them; the very same object when that changes nothing."""
    after = {uuid: tuple(replace(c, ruled=_ruled(c.fault, rules)) for c in kept) for uuid, kept in conditions.items()}
    return conditions if after == conditions else after


def difference(before: Conditions, after: Conditions) -> Iterator[tuple[str, Condition, bool]]:
    """What has begun or changed its severity (True), and what is over or now no more than information (False)."""
    for uuid in before.keys() | after.keys():
        old = {condition.fault: condition for condition in before.get(uuid, ())}
        new = {condition.fault: condition for condition in after.get(uuid, ())}
        for fault, condition in new.items():
            if fault not in old or condition.severity != old[fault].severity:
                yield uuid, condition, True
        for fault, condition in old.items():
            if fault not in new or condition.severity > new[fault].severity == Severity.INFORMATION:
                yield uuid, condition, False


def severity(fault: Fault, recovery: str | None = None) -> Severity:
    """How bad a fault is, whatever else is wrong. ``recovery``: what the GPU asks for to get over an XID."""
    match fault.cause:
        case Cause.XID:
            number = _xid(fault)
            return Severity.DEGRADED if number is None else xids.severity(number, recovery)
        case Cause.ECC:
            return Severity.DEGRADED
        case Cause.GPU_LOST:
            return Severity.UNUSABLE
        case Cause.UNMONITORED:
            return Severity.INFORMATION
        case Cause.REPAIR:  # what waits for the next reset is contained until then
            return Severity.INFORMATION if fault.detail.endswith("-pending") else Severity.DEGRADED
        case Cause.INCOMPLETE:
            return Severity.DEGRADED if fault.detail == "no-answer" else Severity.INFORMATION


def concerning(conditions: tuple[Condition, ...], part: frozenset[int] | None) -> tuple[Condition, ...]:
    """Those of a GPU's conditions that are about the partition on these memory slices; all of them for the whole."""
    if part is None:
        return conditions
    return tuple(c for c in conditions if c.fault.slots is None or c.fault.slots & part)


def worst_by_cause(conditions: tuple[Condition, ...]) -> dict[Cause, Condition]:
    """For each cause the worst condition, the oldest of these: the one that decides."""
    worst: dict[Cause, Condition] = {}
    for condition in conditions:
        known = worst.get(condition.fault.cause)
        if known is None or (condition.severity, -condition.since) > (known.severity, -known.since):
            worst[condition.fault.cause] = condition
    return worst


def _xid(fault: Fault) -> int | None:
    return int(fault.detail) if fault.cause is Cause.XID and fault.detail.isdecimal() else None


def _passes(condition: Condition) -> bool:
    number = _xid(condition.fault)
    return number is not None and (number in xids.PASSING_XIDS or condition.ruled is Severity.INFORMATION)


def _ruled(fault: Fault, rules: XidRules) -> Severity | None:
    number = _xid(fault)
    return None if number is None else rules.of(number)


def _account(conditions: Conditions, uuid: str, recovery: str) -> Conditions:
    before = conditions.get(uuid, ())
    after = tuple(replace(c, recovery=recovery) if c.fault.cause is Cause.XID else c for c in before)
    return conditions if after == before else {**conditions, uuid: after}


def _replace(
    conditions: Conditions, uuid: str, faults: frozenset[Fault], now: float, *, keep_others: bool
) -> Conditions:
    before = conditions.get(uuid, ())
    kept = tuple(condition for condition in before if keep_others or condition.fault in faults)
    new = faults - {condition.fault for condition in kept}
    after = kept + tuple(
        Condition(fault=fault, since=int(now))
        for fault in sorted(new, key=lambda f: (f.cause, f.detail, sorted(f.slots or ())))
    )
    if after == before:
        return conditions
    result = {**conditions, uuid: after}
    if not after:
        del result[uuid]
    return result
