"""What the rules may look at besides the object: the clock, the feature gates, the namespace's labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from driver.sim.apiserver.release import V1_36, Release
from driver.sim.apiserver.schema import Schema, schema

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

GATES = frozenset(
    {
        "DRAAdminAccess",
        "DRAConsumableCapacity",
        "DRADeviceBindingConditions",
        "DRADeviceTaintRules",
        "DRADeviceTaints",
        "DRAExtendedResource",
        "DRAPartitionableDevices",
        "DRAPrioritizedList",
        "DRAResourceClaimDeviceStatus",
        "DRAResourceClaimGranularStatusAuthorization",
    }
)
"""Feature gates that are on: the defaults of Kubernetes 1.37; in 1.36 DRADeviceTaintRules is off, but people try it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Passed to every rule."""

    now: Callable[[], datetime]
    release: Release = V1_36
    gates: frozenset[str] = GATES
    namespace_labels: Callable[[str], Mapping[str, str]] = field(default=lambda _name: {})
    compile_cel: Callable[[str], str | None] = field(default=lambda _expression: None)
    """Says what is wrong with a device selector; None if nothing is."""

    @property
    def types(self) -> Schema:
        """The schema of the release."""
        return schema(self.release.schema)

    def timestamp(self) -> str:
        """Now, as metav1.Time."""
        return self.now().strftime("%Y-%m-%dT%H:%M:%SZ")
