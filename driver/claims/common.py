"""What prepare, unprepare and the chores have in common, each made once for a node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from driver.claims.claim_pods import ClaimPods
from driver.claims.locks import ClaimLocks

if TYPE_CHECKING:
    from driver.claims.hardware import Hardware
    from driver.claims.ledger.records import Records
    from driver.claims.specs import ClaimSpecs
    from driver.claims.status import StatusWriter
    from driver.claims.terms import Terms
    from driver.inventory import Devices
    from driver.kube import NodeEvents
    from driver.observe import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Who is told of what happens to claims."""

    metrics: Metrics
    events: NodeEvents
    status: StatusWriter | None = None
    """None where claims get no ``status.devices``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """The claims of a node."""

    terms: Terms
    devices: Devices
    """What is known of the devices."""
    records: Records
    """The ledger: what is written down of each claim, and who holds what by that."""
    specs: ClaimSpecs
    """What containers find."""
    hardware: Hardware
    told: Told
    pods: ClaimPods = field(default_factory=ClaimPods)
    """Who claims are reserved for."""
    locks: ClaimLocks = field(default_factory=ClaimLocks)
    """Of the claims for which calls are under way."""
