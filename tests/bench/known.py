"""Targets that are missed and known to be: the one place where they stand, with a reason and with how bad it may get.

docs/performance.md tells the same at length.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """A miss that nobody can help at the moment; beyond ``limit`` it has become another one."""

    limit: float
    why: str


GRPC = "a server on grpc.aio that only GETs the claim (floor.relay) does not reach it either"
KNOWN = {
    ("prepare.c8", "throughput of bare GETs"): Miss(limit=0.15, why=GRPC),
    ("prepare.c32", "throughput of bare GETs"): Miss(limit=0.12, why=GRPC),
}
"""By the case's key and what the target is about."""
