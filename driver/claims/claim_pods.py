"""Who claims are reserved for, as last read from the API server."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from driver.claims.allocation import Allocation, PodRef


@dataclass(frozen=True, slots=True)
class Seen:
    """What a claim said when it was read."""

    pods: tuple[PodRef, ...]
    of_one_pod: bool
    at: float
    """Monotonic seconds."""


class ClaimPods:
    """By claim UID. The kubelet tells a driver of a claim's first pod only, so others are found by reading it again."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, Seen] = {}

    def note(self, allocation: Allocation) -> None:
        """A claim was read. On the hot path."""
        self.set(allocation.claim.uid, allocation.pods, of_one_pod=allocation.of_one_pod)

    def set(self, uid: str, pods: tuple[PodRef, ...], *, of_one_pod: bool) -> None:
        """A claim was read."""
        self._seen[uid] = Seen(pods, of_one_pod, self._clock())

    def known(self) -> dict[str, tuple[PodRef, ...]]:
        """The pods of the claims that were read since the process began. May be called from any thread."""
        return {uid: seen.pods for uid, seen in dict(self._seen).items()}

    def age(self, uid: str) -> float | None:
        """Seconds since a claim was read that may get other pods; None for one whose pod is its only one ever."""
        seen = self._seen.get(uid)
        if seen is None:
            return float("inf")
        return None if seen.of_one_pod and seen.pods else self._clock() - seen.at

    def read_since(self, uid: str, moment: float) -> bool:
        """Whether a claim was read after that, by the same clock."""
        seen = self._seen.get(uid)
        return seen is not None and seen.at >= moment

    def forget(self, uid: str) -> None:
        """The claim was unprepared."""
        self._seen.pop(uid, None)

    def prune(self, keep: Container[str]) -> None:
        """Forget claims that have no record any more."""
        self._seen = {uid: seen for uid, seen in self._seen.items() if uid in keep}
