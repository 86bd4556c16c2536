"""The stage: one node's cluster, the drivers on it, and what they leave there."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import uuid
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from driver.sim.demo.workloads import StepError
from driver.sim.process import DriverProcess, gpu_dra

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from driver.sim.cluster import Cluster
    from driver.sim.demo.workloads import Workloads

LOOK_SECONDS = 0.2
NODE_CONFIG = """\
gpus:
- match: {name: gpu-7}  # the last one is for claims that want a part of a GPU only
  partitioning: none
  shares: memory
"""


class Node:
    """The drivers of one node, and their traces."""

    def __init__(self, cluster: Cluster, workloads: Workloads, *, devices: str) -> None:
        self.cluster = cluster
        self.devices = devices
        self._workloads = workloads
        self._drivers: list[DriverProcess] = []
        self._ended: list[DriverProcess] = []

    @property
    def driver(self) -> DriverProcess:
        """The newest instance."""
        return self._drivers[-1]

    async def start_driver(self, *, pod_uid: str = "") -> DriverProcess:
        """Start an instance; returns when the kubelet has registered it."""
        config = self.cluster.root / "node.yaml"
        config.write_text(NODE_CONFIG, encoding="utf-8")
        flags = [f"--devices={self.devices}", "--partitioning=dynamic", f"--config={config}"]
        driver = DriverProcess(
            [*self.cluster.driver_flags(), *flags],
            log=self.cluster.root / f"driver-{len(self._drivers)}.log",
            pod_uid=pod_uid or uuid.uuid4().hex[:8],  # short: it is part of the sockets' names
        )
        self._drivers.append(driver)  # before it starts: whoever is interrupted now has to end it too
        await driver.start()

        async def registered() -> bool:
            return any(line.get("message") == "registered with the kubelet" for line in driver.lines())

        await self._workloads.seen(registered, what="the kubelet registers the driver")
        return driver

    async def kill_driver(self) -> DriverProcess:
        """SIGKILL for the newest instance."""
        driver = self._ending(self.driver)
        driver.signal(signal.SIGKILL)
        await driver.ended()
        return driver

    async def stop_driver(self, driver: DriverProcess) -> None:
        """SIGTERM for an instance. Raises StepError if it does not end with status 0."""
        status = await self._ending(driver).stop()
        if status != 0:
            raise StepError(f"the driver was told to stop and ended with status {status}: {_last_words(driver)}")

    async def end(self) -> None:
        """No driver is left running."""
        for driver in self._drivers:
            await self._ending(driver).kill()

    async def while_drivers_live(self, chapter: Coroutine[Any, Any, None]) -> None:
        """Tell a chapter. Raises StepError as soon as a driver ends that the story has not ended itself."""
        telling = asyncio.create_task(chapter)
        try:
            while not telling.done():
                dead = next((one for one in self._drivers if one.status is not None and one not in self._ended), None)
                if dead is not None:
                    raise StepError(f"the driver has ended with status {dead.status}: {_last_words(dead)}")
                await asyncio.wait({telling}, timeout=LOOK_SECONDS)
        finally:
            telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await telling

    async def fault(self, device: str, *arguments: str) -> None:
        """Hurt or mend a fake GPU. Raises StepError."""
        command = gpu_dra("fault", f"--device={device}", *arguments)
        process = await asyncio.create_subprocess_exec(
            *command,
            f"--kubelet-plugins-dir={self.cluster.plugins_dir}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # the terminal's Ctrl-C is for us alone
        )
        _, errors = await process.communicate()
        if process.returncode != 0:
            raise StepError(f"gpu-dra fault --device {device} {' '.join(arguments)}: {errors.decode().strip()}")

    def records(self) -> list[str]:
        """Claims that the driver has written down."""
        return sorted(path.name for path in self.cluster.plugins_dir.glob("*/claims/*.json"))

    def specs(self) -> list[str]:
        """CDI specs."""
        return sorted(path.name for path in self.cluster.cdi_root.glob("*.json"))

    def sockets(self) -> list[str]:
        """Sockets of drivers."""
        return sorted(str(path) for path in self.cluster.root.rglob("*.sock"))

    def processes(self, uids: Iterable[str]) -> dict[str, int]:
        """The containers of these pods that run now, and their processes."""
        containers = [found for uid in uids for found in self.cluster.kubelet.runtime.containers(uid)]
        return {found.id: found.pid for found in containers if found.running}

    def latencies(self, message: str) -> dict[str, float]:
        """Milliseconds per claim over all drivers of the story."""
        took = [line["duration_ms"] for line in self._lines() if line.get("message") == message]
        if len(took) < 2:
            return {"n": len(took)}
        cuts = quantiles(took, n=100, method="inclusive")
        return {"n": len(took), "p50": round(cuts[49], 2), "p99": round(cuts[98], 2), "max": round(max(took), 2)}

    def failures(self) -> int:
        """Prepares that failed."""
        return sum(1 for line in self._lines() if str(line.get("message", "")).startswith("prepare failed"))

    def _lines(self) -> Iterable[dict[str, Any]]:
        return (line for path in {one.log_path: one for one in self._drivers}.values() for line in path.lines())

    def _ending(self, driver: DriverProcess) -> DriverProcess:
        """An instance whose end is part of the story."""
        self._ended.append(driver)
        return driver


def _last_words(driver: DriverProcess) -> str:
    """The end of a driver's log, for people."""
    return "; ".join(str(line.get("message", "")) for line in list(driver.lines())[-3:])
