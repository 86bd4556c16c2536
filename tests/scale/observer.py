"""Sees pods and claims of a namespace through the API, and notes when each of them came to what."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driver.kube import RESOURCE, Mirror

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from driver.kube import Api

LAG_PERIOD = 0.05


@dataclass(slots=True)
class Life:
    """When a pod was first seen to be something, by this process's clock; None before."""

    created: float
    claim: float | None = None
    """Its claim is there."""
    scheduled: float | None = None
    running: float | None = None
    ended: float | None = None


class Observer:
    """Follows a namespace while its context lasts."""

    def __init__(self, api: Api, namespace: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.lives: dict[str, Life] = {}
        """By the pod's name."""
        self.lags: list[float] = []
        """Seconds by which this process was late for a date with itself: times are off by as much."""
        self._pods = Mirror(api, f"/api/v1/namespaces/{namespace}/pods", changed=self._pod_changed)
        self._claims = Mirror(api, f"{RESOURCE}/namespaces/{namespace}/resourceclaims", changed=self._claim_changed)
        self._early: dict[str, float] = {}
        """Claims that were seen before their pods."""
        self._changed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[Observer]:
        tasks = [asyncio.create_task(work) for work in (self._pods.run(), self._claims.run(), self._measure_lag())]
        try:
            await self._pods.synced.wait()
            await self._claims.synced.wait()
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def left(self) -> int:
        """Pods and claims that are there."""
        return len(self._pods.objects) + len(self._claims.objects)

    def count(self, what: str) -> int:
        """Pods that have come to ``scheduled``, ``running`` or ``ended``."""
        return sum(getattr(life, what) is not None for life in self.lives.values())

    async def until(self, done: Callable[[], bool], *, within: float, what: str) -> None:
        """Return when something has come true. Raises TimeoutError with what is still to come."""
        try:
            async with asyncio.timeout(within):
                while not done():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            state = ", ".join(f"{self.count(word)} {word}" for word in ("scheduled", "running", "ended"))
            raise TimeoutError(f"not within {within:.0f} s: {what}; of {len(self.lives)} pods {state}") from None

    def _pod_changed(self, key: tuple[str, str] | None) -> None:
        now = self._clock()
        for name in [key] if key else list(self._pods.objects):
            if (pod := self._pods.objects.get(name)) is not None:
                self._note(pod, now)
        self._changed.set()

    def _note(self, pod: dict[str, Any], now: float) -> None:
        name = pod["metadata"]["name"]
        life = self.lives.get(name)
        if life is None:
            life = self.lives[name] = Life(now, claim=self._early.pop(name, None))
        phase = (pod.get("status") or {}).get("phase")
        if life.scheduled is None and pod["spec"].get("nodeName"):
            life.scheduled = now
        if life.running is None and phase in {"Running", "Succeeded"}:
            life.running = now
        if life.ended is None and phase in {"Succeeded", "Failed"}:
            life.ended = now

    def _claim_changed(self, key: tuple[str, str] | None) -> None:
        now = self._clock()
        for name in [key] if key else list(self._claims.objects):
            claim = self._claims.objects.get(name)
            owners = claim["metadata"].get("ownerReferences") if claim is not None else None
            if not owners:
                continue
            pod = owners[0]["name"]
            life = self.lives.get(pod)
            if life is None:
                self._early.setdefault(pod, now)
            elif life.claim is None:
                life.claim = now
        self._changed.set()

    async def _measure_lag(self) -> None:
        while True:
            due = self._clock() + LAG_PERIOD
            await asyncio.sleep(LAG_PERIOD)
            self.lags.append(self._clock() - due)
