"""Nodes: for each a simulated kubelet in this process, and a driver in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import generate_latest

from driver.kube import MERGE_PATCH, ApiError
from driver.sim.kubelet import Kubelet, Options
from driver.sim.process import DriverProcess
from tests.scale.numbers import Numbers
from tests.scale.sleepers import Sleepers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from tests.scale.site import Site

AS_REAL = Options(
    reconcile_period=1,
    registration_backoff=0.5,
    registration_backoff_max=122,
    connect_backoff=1,
    connect_backoff_max=120,
    wiping_delay=600,
    health_reopen=5,
    resync=60,
    backoff=10,
    claim_reconcile=60,
    crash_backoff=10,
    crash_backoff_max=300,
    node_status_period=10,
)
"""The pace of the real kubelet. But that one deletes slices when a driver has been away for 30 s, and a hundred drivers
that start at once take longer on a few cores, while each of a hundred nodes takes a second."""
LEASE_PERIOD, LEASE_DURATION = 10, 40
"""Seconds between two renewals of a Node's lease, and for how long one counts."""
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
START_PATIENCE = 600.0
OVERLAP = 1.0
"""Seconds for which two drivers run beside each other; a DaemonSet waits longer, for its minReadySeconds."""
READY_PERIOD = 0.25
"""Seconds between two looks: a driver that starts needs the processor more than we do."""


@dataclass(slots=True)
class Exact:
    """In place of the kubelet's histogram of its calls: each of them, to the microsecond, for all nodes together."""

    calls: list[tuple[str, str, float]] = field(default_factory=list)
    """Method, status, seconds."""

    def labels(self, _driver: str, path: str, code: str) -> _Call:
        return _Call(self, path.rpartition("/")[2], code)


@dataclass(slots=True)
class _Call:
    exact: Exact
    method: str
    code: str

    def observe(self, seconds: float) -> None:
        self.exact.calls.append((self.method, self.code, seconds))


class Driver(DriverProcess):
    """``gpu-dra run`` with the gRPC probe switched off."""

    def __init__(self, flags: Sequence[str], *, log: Path, pod_uid: str) -> None:
        super().__init__([*flags, "--health-port=0"], log=log, pod_uid=pod_uid)

    async def ready(self) -> None:
        """Return when it is registered and has published. Raises RuntimeError when it has ended, and TimeoutError."""
        async with asyncio.timeout(START_PATIENCE):
            while not await self._says_ready():  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(READY_PERIOD)

    async def _says_ready(self) -> bool:
        if self.status is not None:
            raise RuntimeError(f"a driver has ended with {self.status}, see {self.log_path}")
        with contextlib.suppress(OSError):
            return (await self.get("/readyz"))[0] == 200
        return False

    async def numbers(self) -> Numbers:
        return Numbers.parse((await self.get("/metrics"))[1])

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> tuple[float, float]:
        """Resident, and its share of it where pages belong to several processes."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        sizes = {line.split()[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
        return sizes["Rss:"] / 1024, sizes["Pss:"] / 1024


class Node:
    """One node below ``root``, whose path is short because sockets lie in it."""

    def __init__(self, name: str, root: Path, site: Site, *, options: Options, exact: Exact) -> None:
        self.name = name
        self.root = root
        self.drivers: list[Driver] = []
        """Those that run, the latest last: two while one replaces the other."""
        self._site = site
        self._starts = 0
        self.cdi = root / "cdi"
        self.cdi.mkdir(parents=True)
        self.kubelet = Kubelet(
            api=site.api, node_name=name, root_dir=root, cdi_dirs=[self.cdi], options=options, runtime=Sleepers
        )
        self.kubelet.metrics.grpc_operations = exact  # type: ignore[assignment]

    async def keep_lease(self) -> None:
        """Until cancelled."""
        spec = {"holderIdentity": self.name, "leaseDurationSeconds": LEASE_DURATION}
        meta = {"name": self.name, "namespace": "kube-node-lease"}
        lease: dict[str, Any] = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta}
        await asyncio.sleep(random.random() * LEASE_PERIOD)
        while True:
            spec["renewTime"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            with contextlib.suppress(ApiError):
                try:
                    change = {"spec": spec}
                    await self._site.api.request(
                        "PATCH", f"{LEASES}/{self.name}", body=change, content_type=MERGE_PATCH
                    )
                except ApiError as error:
                    if error.status != 404:
                        raise
                    await self._site.api.request("POST", LEASES, body={**lease, "spec": spec})
            await asyncio.sleep(LEASE_PERIOD)

    @property
    def driver(self) -> Driver:
        """The latest. Raises IndexError where none runs."""
        return self.drivers[-1]

    async def start_driver(self, flags: Sequence[str]) -> None:
        """Another one, beside the one that runs; returns when it is ready."""
        self._starts += 1
        kubeconfig = self.root / "driver.kubeconfig"
        if not kubeconfig.exists():
            await self._site.write_driver_kubeconfig(kubeconfig, self.name)
        driver = Driver(
            [
                f"--node-name={self.name}",
                f"--kubeconfig={kubeconfig}",
                f"--kubelet-plugins-dir={self.kubelet.plugins_dir}",
                f"--kubelet-registry-dir={self.kubelet.registry_dir}",
                f"--cdi-root={self.cdi}",
                *flags,
            ],
            log=self.root / f"driver-{self._starts}.log",
            pod_uid=f"start-{self._starts}",
        )
        self.drivers.append(driver)
        await driver.start()
        await driver.ready()

    def left(self) -> dict[str, int]:
        """Records and CDI specs that are there."""
        return {
            "records": len(list(self.kubelet.plugins_dir.glob("*/claims/*.json"))),
            "CDI specs": len(list(self.cdi.glob("*.json"))),
        }


class Fleet:
    """All nodes. What drivers count is kept when they end."""

    def __init__(self, site: Site, root: Path, *, size: int, parallel: int, options: Options = AS_REAL) -> None:
        self.calls = Exact()
        self.nodes = [
            Node(f"scale-{index}", root / str(index), site, options=options, exact=self.calls) for index in range(size)
        ]
        self.parallel = parallel
        self._site = site
        self._flags: Sequence[str] = ()
        self._ended: list[Numbers] = []
        self._ended_cpu = 0.0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Kubelets, then whatever is done; at the end all drivers are stopped."""
        work = [node.kubelet.run for node in self.nodes] + [node.keep_lease for node in self.nodes]
        tasks = [asyncio.create_task(one()) for one in work]
        try:
            ready = asyncio.gather(*(node.kubelet.started.wait() for node in self.nodes))
            await asyncio.wait({ready, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise next(task.exception() or RuntimeError("a kubelet has ended") for task in tasks if task.done())
            yield
        finally:
            await asyncio.gather(*(driver.kill() for driver in self.drivers))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for node in self.nodes:
                for path in (f"{LEASES}/{node.name}", f"/api/v1/nodes/{node.name}"):
                    with contextlib.suppress(ApiError):
                        await self._site.api.request("DELETE", path)

    async def start(self, flags: Sequence[str]) -> float:
        """Drivers on all nodes, some at a time. Answers CPU seconds of a driver until it was ready, on average."""
        self._flags = flags
        await self._each(self._start)
        return sum(driver.cpu_seconds() for driver in self.drivers) / len(self.nodes)

    async def stop(self) -> None:
        """End all drivers."""

        async def end(node: Node) -> None:
            for driver in list(node.drivers):
                await self._end(node, driver)

        await self._each(end)

    async def roll(self, tick: Callable[[int], None] = lambda _done: None) -> None:
        """What a DaemonSet with a surge does: another driver beside each, and the first one goes."""
        done = iter(range(1, len(self.nodes) + 1))

        async def replace(node: Node) -> None:
            old = node.driver
            await self._start(node)
            await asyncio.sleep(OVERLAP)
            await self._end(node, old)
            tick(next(done))

        await self._each(replace)

    async def restart_at_once(self) -> None:
        """As after a change of something that all have in common: each is killed, and started again by its kubelet."""
        await self._each(lambda node: self._count(node.driver))
        await asyncio.gather(*(driver.kill() for driver in self.drivers))
        for node in self.nodes:
            node.drivers.clear()
        await asyncio.gather(*map(self._start, self.nodes))

    @property
    def drivers(self) -> list[Driver]:
        """Those that run."""
        return [driver for node in self.nodes for driver in node.drivers]

    async def numbers(self) -> Numbers:
        """What all drivers have counted so far, those that have ended too."""
        pages: list[Numbers] = []

        async def read(node: Node) -> None:
            pages.extend([await driver.numbers() for driver in node.drivers])

        await self._each(read)
        return Numbers.sum([*pages, *self._ended])

    def cpu_seconds(self) -> float:
        """Of all drivers so far, those that have ended too."""
        return self._ended_cpu + sum(driver.cpu_seconds() for driver in self.drivers)

    def kubelets(self) -> Numbers:
        """What the kubelets count of their pods' claims."""
        return Numbers.sum(
            Numbers.parse(generate_latest(node.kubelet.metrics.registry).decode()) for node in self.nodes
        )

    def left(self) -> dict[str, int]:
        """Records and CDI specs on all nodes."""
        found = [node.left() for node in self.nodes]
        return {key: sum(one[key] for one in found) for key in found[0]}

    async def _start(self, node: Node) -> None:
        await node.start_driver(self._flags)

    async def _end(self, node: Node, driver: Driver) -> None:
        await self._count(driver)
        await driver.stop()
        node.drivers.remove(driver)

    async def _count(self, driver: Driver) -> None:
        self._ended.append(await driver.numbers())
        self._ended_cpu += driver.cpu_seconds()

    async def _each(self, work: Callable[[Node], Awaitable[None]]) -> None:
        waiting = iter(self.nodes)

        async def worker() -> None:
            for node in waiting:
                await work(node)

        await asyncio.gather(*(worker() for _ in range(self.parallel)))


def lacking(nodes: int) -> list[str]:
    """What this machine does not allow for so many nodes, each with what to do."""
    found = []
    allowed = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text(encoding="utf-8"))
    if allowed < (needed := 32 + 3 * nodes):
        found.append(
            f"inotify instances: {allowed}, but {needed} are needed: sysctl fs.inotify.max_user_instances={needed}"
        )
    return found
