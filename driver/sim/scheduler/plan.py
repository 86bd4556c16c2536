"""A scheduling decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from driver.sim.scheduler.extended import Backed


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where a pod goes and what has to be written for that."""

    node: str
    pending: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]] = ()
    """Claims that exist, each with its allocation."""
    reserve: Sequence[Mapping[str, Any]] = ()
    """Claims that are allocated already and must be reserved for the pod too."""
    special: tuple[Backed, Mapping[str, Any]] | None = None
    """Extended resources with the allocation of the claim that is yet to be created."""
