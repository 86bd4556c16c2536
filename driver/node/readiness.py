"""How this instance is: what is missing for it to be ready, and the page ``/status``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driver.health import describe

if TYPE_CHECKING:
    from driver.claims import Records
    from driver.inventory import Coexistence, Defects, Devices, Offer, Publisher
    from driver.kube import Api
    from driver.kubelet import RegistrationService
    from driver.node.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """Asks those who know, at each call."""

    settings: Settings
    api: Api
    devices: Devices
    offer: Offer
    defects: Defects
    registration: RegistrationService
    coexistence: Coexistence
    publisher: Publisher
    records: Records

    def not_ready(self) -> list[str]:
        """What is missing, a line each; every part says so for itself."""
        parts = (self.api, self.devices, self.defects, self.registration)
        return [*(line for part in parts for line in part.not_ready()), *self._slices_not_ready()]

    def page(self) -> dict[str, Any]:
        """What a person wants to know of this instance at a glance."""
        return {
            "driver": self.settings.driver_name,
            "node": self.settings.node_name,
            "podUID": self.settings.pod_uid,
            "notReady": self.not_ready(),
            "publishes": not self.publisher.quiet,
            "otherDrivers": [sign.evidence for sign in self.coexistence.signs],
            "devices": len(self.devices.offered),
            "notOfferedAsAsked": self.offer.problems,
            "pendingChange": self.devices.pending,
            "nodeDefects": {found.kind: ". ".join(filter(None, (found.why, found.remedy))) for found in self.defects},
            "conditions": {uuid: [describe(c) for c in found] for uuid, found in self.devices.conditions.items()},
            "droppedFeatureGates": sorted(self.publisher.dropped),
            "preparedClaims": len(self.records),
            "quarantinedRecords": sorted(self.records.quarantine.by_uid()),
        }

    def _slices_not_ready(self) -> list[str]:
        if self.coexistence.problem:
            return [f"slices: held back: {self.coexistence.problem}"]
        return [] if self.publisher.published else ["slices: not published"]
