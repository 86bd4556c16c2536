"""Conditions on disk, so that taints keep their ``timeAdded`` when the driver restarts."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from driver.base import files
from driver.hardware import Cause, Fault
from driver.health.conditions import Condition, Conditions, rule
from driver.health.xids import NO_RULES, XidRules

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

SCHEMA = 1
MAX_DETAIL = 64
MAX_SINCE = 1 << 33
CONDITIONS_FILE = "conditions.json"
_CAUSES = frozenset(Cause)


class ConditionStore:
    """``conditions.json`` in the driver's directory; void after a reboot, which mends or re-reports every fault."""

    def __init__(self, directory: Path, *, boot_id: str, rules: XidRules = NO_RULES) -> None:
        self._path = directory / CONDITIONS_FILE
        self._boot_id = boot_id
        self.rules = rules
        """By which conditions are judged; they are no part of the file."""

    def load(self) -> Conditions:
        """Conditions as last saved in this boot. Never fails: a file that cannot be used counts as none."""
        try:
            return rule(self._parse(files.parse(files.read(str(self._path)))), self.rules)
        except FileNotFoundError:
            return {}
        except Exception as error:  # noqa: BLE001 - whatever stands in the file, the driver starts
            damaged = self._path.with_name(f"{CONDITIONS_FILE}.damaged")
            logger.error("%s is damaged (%r): set aside as %s; taints begin anew", self._path, error, damaged.name)
            try:
                self._path.replace(damaged)
            except OSError as failure:
                logger.error("setting it aside failed: %s", failure)
            return {}

    def peek(self) -> Conditions:
        """The same for somebody who looks on: the file stays where it is."""
        try:
            return self._parse(files.parse(files.read(str(self._path))))
        except FileNotFoundError:
            return {}
        except Exception as error:  # noqa: BLE001 - whatever stands in the file
            logger.warning("%s is damaged (%r)", self._path, error)
            return {}

    def save(self, conditions: Conditions) -> None:
        """Replace the file. Raises OSError; the old content then stays."""
        document = {
            "schema": SCHEMA,
            "bootID": self._boot_id,
            "conditions": {uuid: [_item(condition) for condition in present] for uuid, present in conditions.items()},
        }
        files.replace(str(self._path), (json.dumps(document, indent=1) + "\n").encode())

    def _parse(self, document: dict[str, Any]) -> Conditions:
        if document["bootID"] != self._boot_id:
            return {}
        result: dict[str, tuple[Condition, ...]] = {}
        for uuid, items in document["conditions"].items():
            present = tuple(
                _condition(item)
                for item in items
                if item["cause"] in _CAUSES  # a newer version may know more
            )
            if present:
                result[str(uuid)] = present
        return result


def _item(condition: Condition) -> dict[str, Any]:
    fault = condition.fault
    item: dict[str, Any] = {"cause": fault.cause, "detail": fault.detail, "since": condition.since}
    if condition.recovery is not None:
        item["recovery"] = condition.recovery
    return item if fault.slots is None else {**item, "slots": sorted(fault.slots)}


def _condition(item: dict[str, Any]) -> Condition:
    detail, since, slots = str(item["detail"]), int(item["since"]), item.get("slots")
    recovery = None if item.get("recovery") is None else str(item["recovery"])
    if len(detail) > MAX_DETAIL or len(recovery or "") > MAX_DETAIL or not 0 <= since < MAX_SINCE:
        raise ValueError(f"not a condition: {item!r:.200}")
    fault = Fault(
        cause=Cause(item["cause"]), detail=detail, slots=None if slots is None else frozenset(map(int, slots))
    )
    return Condition(fault=fault, since=since, recovery=recovery)
