"""What is written down for one claim."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from driver.claims.allocation import ClaimRef, PodRef
from driver.claims.ledger.device_sharing import DeviceSharing
from driver.hardware import Partition
from driver.inventory import DeviceOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from driver.claims.allocation import Result


class State(enum.StrEnum):
    """How far a claim has come."""

    PREPARING = "preparing"
    """Hardware is about to be changed as the record says; it may or may not have happened."""
    PREPARED = "prepared"
    """Everything that the record says is so."""
    UNDOING = "undoing"
    """The claim is done with, but what was changed for it could not be undone yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A partition that is made for a claim, by what can be known before it is made."""

    profile: str
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDevice:
    """One device of a claim: the kubelet's answer for it, and which hardware it is."""

    requests: tuple[str, ...]
    """Base request names; what pods refer to."""
    pool: str
    device: str
    cdi_ids: tuple[str, ...]
    gpu_uuid: str
    slots: tuple[int, ...]
    """Memory slices of the GPU that the device occupies."""
    whole: bool = True
    """Whether it is a whole GPU."""
    share_id: str | None = None
    consumed: tuple[tuple[str, str], ...] = ()
    """Capacity that a share takes: names and quantities."""
    admin: bool = False
    subrequest: str = ""
    """Which alternative of ``firstAvailable`` it is, without the request's name; empty where there are none."""
    placement: Placement | None = None
    """What prepare makes and unprepare destroys; None for devices that are there already."""
    partition: Partition | None = None
    """The MIG device, once it is known."""
    sharing: DeviceSharing | None = None
    """How processes share it; None where nobody said anything about that."""
    product: str = ""
    """What the GPU is called; empty where nobody told."""
    weight: float | None = None
    """Which part of a GPU it is, from 0 to 1; None where nobody noted."""
    offered: DeviceOptions | None = None
    """How its GPU was offered when the claim got it: the shape that it keeps meanwhile. None where nobody knows."""
    unknown: dict[str, Any] = field(default_factory=dict, hash=False)
    """Fields of a newer version, also those inside ``placement`` and ``partition``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All that is known of one claim."""

    claim: ClaimRef
    allocation: str
    """Fingerprint of the allocation that this record was made for."""
    boot_id: str
    driver: str
    state: State
    devices: tuple[PreparedDevice, ...]
    prepared_at: str
    """RFC 3339."""
    held_since: float | None = None
    """Seconds of the boot's clock, from when on the claim holds its devices; None where nobody noted."""
    pods: tuple[PodRef, ...] = ()
    """Who it was reserved for when it was prepared."""
    of_one_pod: bool = False
    """Whether nobody else will ever have it, so that the claim need not be read again for that."""
    metadata: str | None = None
    """Directory in containers where they find device metadata files; None without any."""
    salvaged_from: str = ""
    """The damaged record that this one stands in for: it only says what may still be in use. Empty for a real one."""
    unknown: dict[str, Any] = field(default_factory=dict, hash=False)
    """Fields of a newer version; they are kept, so that an upgrade after a downgrade finds them again."""

    def with_state(self, state: State) -> Record:
        """The same record, further on its way."""
        return replace(self, state=state)


def named(devices: Iterable[PreparedDevice | Result]) -> frozenset[tuple[str, str | None]]:
    """Which devices and shares they are, by name."""
    return frozenset((device.device, device.share_id) for device in devices)
