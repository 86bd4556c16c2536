"""What is kept of slices, claims, pods and rules: all that the model needs, a small part of what the API sends."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from driver.health import Effect

if TYPE_CHECKING:
    from datetime import datetime

Amount = int | Fraction
"""A quantity's exact value."""
Amounts = tuple[tuple[str, Amount], ...]
"""Quantities by name."""
Key = tuple[str, str]
"""Namespace and name; the namespace is empty for what belongs to the whole cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """What is wrong with a device."""

    key: str
    value: str = ""
    effect: str
    since: datetime | None = None
    rule: str = ""
    """The DeviceTaintRule that it comes from; empty where it stands in the slice."""

    @property
    def forbids(self) -> bool:
        """Whether it keeps new claims off the device."""
        return self.effect != Effect.NONE

    @property
    def words(self) -> str:
        """As kubectl has it."""
        return f"{self.key}{f'={self.value}' if self.value else ''}:{self.effect}"

    def __str__(self) -> str:
        """What it is, and whose if not the driver's."""
        return f"rule {self.rule}: {self.words}" if self.rule else self.words


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What thousands of devices have in common; equal ones are one object."""

    profile: str
    """Of a partition, ``1g.10gb``; empty for a whole GPU."""
    product: str
    slots: tuple[int, ...]
    """Memory slices of the GPU that it occupies, as far as the slice tells."""
    counters: Amounts
    """What it takes of its GPU's counters."""
    memory: Amount | None
    """Bytes; of a shared device, those that claims can take."""
    shares: Amount | None
    """How many claims it is cut for; None where they are not counted."""
    shared: bool
    """Whether several claims may have it at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device of a slice."""

    name: str
    gpu: str
    """The GPU's UUID; where the hardware does not tell it, the GPU's name."""
    uuid: str
    """Its own UUID; empty for a partition that is made for its claim."""
    counter_set: str
    """Empty where it takes no counters."""
    shape: Shape
    taints: tuple[Taint, ...] = ()

    @property
    def gpu_name(self) -> str:
        """The GPU's name on its node."""
        return gpu_name(self.name)


def gpu_name(device: str) -> str:
    """The name of a device's GPU: partitions are called ``<GPU>-mig-…``."""
    return device.partition("-mig-")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One ResourceSlice of ours."""

    name: str
    pool: str
    node: str
    generation: int
    count: int
    """How many slices its pool has in this generation."""
    devices: tuple[Device, ...] = ()
    counters: tuple[tuple[str, Amounts], ...] = ()
    """Counter sets by name, and how much there is."""
    unread: int = 0
    """Devices that are not as the API says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One device of ours that a claim was given."""

    request: str
    pool: str
    device: str
    admin: bool = False
    share_id: str = ""
    consumed: Amounts = ()
    """What a share takes of the device's capacities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A ResourceClaim that has devices of ours."""

    namespace: str
    name: str
    uid: str
    since: datetime | None
    """When it was allocated, by the API server's clock."""
    results: tuple[Result, ...]
    pods: tuple[str, ...] = ()
    """Names of the pods that it is reserved for."""

    @property
    def key(self) -> Key:
        """Where it is."""
        return self.namespace, self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod that has claims."""

    namespace: str
    name: str
    node: str
    phase: str
    """``Running`` and the like; ``Terminating`` for one that is being deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A DeviceTaintRule for devices of ours: an administrator's taint on each device that it selects."""

    taint: Taint
    pool: str = ""
    """Empty for those of all pools."""
    device: str = ""
    """Empty for all of a pool."""

    def taints(self, device: str, *, pool: str) -> bool:
        """Whether it selects the device: all that it says has to be so."""
        return self.pool in ("", pool) and self.device in ("", device)
