"""The cases: what is done, what is measured, and what must be reached."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc.aio

from driver.kube.client import RESOURCE
from tests.bench import world
from tests.bench.cdi_events import Watcher
from tests.bench.stats import Case, Stats, Target
from tests.bench.world import Node, concurrently, timed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from pathlib import Path

    from driver.kube.client import Api
    from tests.harness import Kubelet

CLAIMS = 100
"""Claims of one round, each on a GPU of its own."""
GPUS = 128
WARM = 28
"""Claims that are prepared and unprepared first: connections, caches and the interpreter's own specialisation."""
GROWN = 2000
CYCLES = 10_000
SETTLED = 1_000
"""Prepares after which memory counts as settled."""
STARTS = 5
PREPARED = 500
CUT_CYCLES = 1_000
"""Prepares of partitions, which are made for each and taken away again."""
PARTITIONS, SCRAPES = 56, 20
SLOW_SECONDS = 5.0
API_DELAY = 0.05


@dataclass(slots=True)
class Bench:
    """What cases share."""

    directory: Path
    rounds: int
    plain: bool = False
    """Whether the API server speaks HTTP without TLS."""
    gpus: Path = field(init=False)
    """A profile with many GPUs, none of which is partitioned."""

    def __post_init__(self) -> None:
        self.gpus = world.profile(self.directory, GPUS)

    @contextlib.asynccontextmanager
    async def many_gpus(self, *, delay: float = 0.0) -> AsyncIterator[tuple[Api, Node, list[dict[str, Any]]]]:
        """A node with a claim for each of its GPUs; everything is warm."""
        claims = [world.claim(f"claim-{index}", f"gpu-{index}") for index in range(GPUS)]
        async with (
            world.api_process(self.directory, claims, delay=delay, plain=self.plain) as server,
            world.client(server) as api,
            world.node(server, f"--devices=fake:{self.gpus}") as node,
        ):
            for work in (lambda claim: api.get(world.path(claim)), node.prepare, node.prepare, node.unprepare):
                await concurrently(claims[CLAIMS:] + claims[:CLAIMS], work, 4)
            yield api, node, claims[:CLAIMS]


async def one_at_a_time(bench: Bench) -> list[Case]:
    """prepare.c1, reprepare.c1, unprepare.c1 and cdi_events, with the floor measured in between, claim by claim."""
    names = ("get", "empty", "record", "cdi", "prepare", "reprepare", "unprepare")
    samples: dict[str, list[float]] = {name: [] for name in names}
    cpu = dict.fromkeys(names, 0.0)
    events: dict[str, list[int]] = {name: [0, 0] for name in ("prepare", "reprepare", "unprepare")}
    rewritten = 0
    async with bench.many_gpus() as (api, node, claims):
        # Runtimes do not look into sub-directories.
        scratch = (node.directories.root / "floor", node.directories.cdi / "floor")
        for directory in scratch:
            directory.mkdir()
        watcher = Watcher(node.directories.cdi)

        async def take(name: str, work: Awaitable[None]) -> None:
            took, spent = await node.spend(work)
            samples[name].append(took)
            cpu[name] += spent * 1000

        async def floor(claim: dict[str, Any]) -> None:
            samples["get"].append(await timed(api.get(world.path(claim))))
            await take("empty", node.empty())

        def count(what: str) -> None:
            scans, raw = watcher.counts()
            events[what][0] += scans
            events[what][1] += raw

        for _ in range(bench.rounds):
            for claim in claims:
                await floor(claim)
                await take("prepare", node.prepare(claim))
                count("prepare")
                files = (node.record(claim), node.spec(claim))
                for name, place, file in zip(("record", "cdi"), scratch, files, strict=True):
                    samples[name].append(_write_and_rename(place / file.name, file.read_bytes()))
            before = [_identity(path) for claim in claims for path in (node.record(claim), node.spec(claim))]
            for claim in claims:
                await floor(claim)
                await take("reprepare", node.prepare(claim))
                count("reprepare")
            after = [_identity(path) for claim in claims for path in (node.record(claim), node.spec(claim))]
            rewritten += sum(old != new for old, new in zip(before, after, strict=True))
            for claim in claims:
                await take("empty", node.empty())
                await take("unprepare", node.unprepare(claim))
                count("unprepare")
        watcher.close()
    stats = {name: Stats.of(values) for name, values in samples.items()}
    floors = {name: stats[name].p50 for name in ("get", "empty", "record", "cdi")}
    each = {name: cpu[name] / stats[name].n for name in ("empty", "prepare", "reprepare", "unprepare")}
    prepare, reprepare, unprepare = stats["prepare"], stats["reprepare"], stats["unprepare"]
    n = prepare.n
    per_claim = {what: scans / n for what, (scans, _) in events.items()}
    return [
        *(Case(key=f"floor.{name}", stats=stats[name], cpu_us=each.get(name)) for name in floors),
        Case(
            key="prepare.c1",
            stats=prepare,
            cpu_us=each["prepare"],
            targets=[Target(what="ratio", value=prepare.p50 / sum(floors.values()), limit=1.6)],
            facts={"ratio": prepare.p50 / sum(floors.values()), "floor_p50": sum(floors.values())},
        ),
        Case(
            key="reprepare.c1",
            stats=reprepare,
            cpu_us=each["reprepare"],
            targets=[
                Target(what="ratio", value=reprepare.p50 / (floors["get"] + floors["empty"]), limit=1.25),
                Target(what="files written", value=rewritten + events["reprepare"][1], limit=0),
            ],
            facts={"ratio": reprepare.p50 / (floors["get"] + floors["empty"])},
        ),
        Case(
            key="unprepare.c1",
            stats=unprepare,
            cpu_us=each["unprepare"],
            targets=[Target(what="ms over an empty call", value=unprepare.p50 - floors["empty"], limit=1.0)],
            facts={"over_empty_ms": unprepare.p50 - floors["empty"]},
        ),
        Case(
            key="cdi_events",
            unit="events",
            targets=[
                Target(what="scans per prepare", value=per_claim["prepare"], limit=1),
                Target(what="scans per unprepare", value=per_claim["unprepare"], limit=1),
            ],
            facts={f"{what}_{kind}": events[what][index] / n for what in events for index, kind in enumerate(_KINDS)},
        ),
    ]


_KINDS = ("scans", "raw")


async def concurrent(bench: Bench) -> list[Case]:
    """prepare.c8, prepare.c32 and unprepare.c8, in turns with bare GETs at the same concurrency.

    And, for scale, in turns with the GETs of the official client as it comes, and with a server on grpcio that does
    nothing but GET the claim of each call: no driver can have more throughput than that.
    """
    cases = []
    single: list[float] = []
    async with (
        bench.many_gpus() as (api, node, claims),
        world.stock_client(node) as stock,
        world.relay(node) as relay,
    ):
        await concurrently(claims, relay, 4)

        async def stock_get(claim: dict[str, Any]) -> None:
            await stock.read_namespaced_resource_claim(claim["metadata"]["name"], world.NAMESPACE)

        async def get(claim: dict[str, Any]) -> None:
            await api.get(world.path(claim))

        for workers in (8, 32):
            works = {
                "get": get,
                "stock_get": stock_get,
                "relay": relay,
                "prepare": node.prepare,
                "unprepare": node.unprepare,
            }
            samples: dict[str, list[float]] = {name: [] for name in works}
            seconds = dict.fromkeys(works, 0.0)
            cpu = dict.fromkeys(works, 0.0)
            for _ in range(bench.rounds * 2):
                for name, work in works.items():
                    before = node.cpu_ms()
                    took, wall = await concurrently(claims, work, workers)
                    samples[name] += took
                    seconds[name] += wall
                    cpu[name] += node.cpu_ms() - before
                if workers == 8:  # what unprepare.c8 is compared with, in turns with it too
                    await concurrently(claims, node.prepare, workers)
                    single += (await concurrently(claims, node.unprepare, 1))[0]
            stats = {name: Stats.of(samples[name], seconds=seconds[name]) for name in works}
            share, of_stock, of_relay = (
                stats["prepare"].throughput / stats[name].throughput for name in ("get", "stock_get", "relay")
            )
            each = {name: cpu[name] * 1000 / stats[name].n for name in works}
            at_most = stats["relay"].throughput / stats["get"].throughput
            cases += [
                Case(key=f"floor.get_c{workers}", stats=stats["get"]),
                Case(key=f"floor.stock_get_c{workers}", stats=stats["stock_get"]),
                Case(
                    key=f"floor.relay_c{workers}",
                    stats=stats["relay"],
                    facts={"share_of_get_throughput": at_most},
                ),
                Case(
                    key=f"prepare.c{workers}",
                    stats=stats["prepare"],
                    cpu_us=each["prepare"],
                    targets=[Target(what="throughput of bare GETs", value=share, limit=0.4, at_least=True)],
                    facts={
                        "share_of_get_throughput": share,
                        "share_of_stock_get_throughput": of_stock,
                        "share_of_relay_throughput": of_relay,
                    },
                ),
            ]
            if workers == 8:
                times = stats["unprepare"].p50 / Stats.of(single).p50
                cases.append(
                    Case(
                        key="unprepare.c8",
                        stats=stats["unprepare"],
                        cpu_us=each["unprepare"],
                        targets=[Target(what="p50 over c1's", value=times, limit=6)],
                        facts={"times_c1": times},
                    )
                )
    return cases


async def growth(bench: Bench) -> list[Case]:
    """Prepare on two nodes alike, sample by sample: one holds 10 claims, the other 2,000, all shares of 8 GPUs."""
    held = [world.claim(f"held-{index}", f"gpu-{index % 8}", share=True) for index in range(GROWN)]
    probes = [world.claim(f"probe-{index}", f"gpu-{index % 8}", share=True) for index in range(CLAIMS)]
    samples: dict[int, list[float]] = {10: [], GROWN: []}
    async with (
        world.api_process(bench.directory, held + probes) as server,
        world.node(server, "--shares=unlimited") as small,
        world.node(server, "--shares=unlimited") as large,
    ):
        nodes = {10: small, GROWN: large}
        for count, node in nodes.items():
            for _ in range(GROWN // count):  # as many calls before on both, so that both are as warm
                await concurrently(held[:count], node.prepare, 8)
        for _ in range(bench.rounds * 2):
            for probe in probes:
                for count, node in nodes.items():
                    samples[count].append(await timed(node.prepare(probe)))
            for probe in probes:
                for node in nodes.values():
                    await node.unprepare(probe)
    few, many = Stats.of(samples[10]), Stats.of(samples[GROWN])
    return [
        Case(
            key="growth",
            stats=many,
            targets=[Target(what=f"p50 at {GROWN} over that at 10", value=many.p50 / few.p50, limit=1.15)],
            facts={"ratio": many.p50 / few.p50, "p50_with_10": few.p50, "p50_with_2000": many.p50},
        )
    ]


async def api_latency(bench: Bench) -> list[Case]:
    """32 prepares at a time while each answer of the API server takes 50 ms."""
    samples: list[float] = []
    seconds = 0.0
    async with bench.many_gpus(delay=API_DELAY) as (_, node, claims):
        for _ in range(bench.rounds):
            took, wall = await concurrently(claims, node.prepare, 32)
            samples += took
            seconds += wall
            await concurrently(claims, node.unprepare, 32)
    stats = Stats.of(samples, seconds=seconds)
    return [Case(key="api_latency", stats=stats, targets=[Target(what="p50 ms", value=stats.p50, limit=70)])]


async def memory(bench: Bench) -> list[Case]:
    """Resident memory over 10,000 prepares and unprepares, each of a claim that was never seen before."""
    claims = [world.claim(f"claim-{index}", f"gpu-{index % GPUS}") for index in range(CYCLES)]
    async with (
        world.api_process(bench.directory, claims) as server,
        world.node(server, f"--devices=fake:{bench.gpus}") as node,
    ):
        started = time.perf_counter()
        idle = node.rss_mib()
        series = await _memory_over(claims, node, every=SETTLED)
        seconds = time.perf_counter() - started
    growth_mib = series[-1] - series[0]
    cut_idle, cut = await _memory_with_partitions(bench)
    return [
        Case(
            key="rss_mib",
            unit="MiB",
            stats=Stats.of(series, seconds=seconds),
            targets=[
                Target(what="MiB at the end", value=series[-1], limit=72),
                Target(what="MiB more than after 1,000", value=growth_mib, limit=2),
            ],
            facts={"idle": idle, "end": series[-1], "growth": growth_mib, "series": [round(v, 2) for v in series]},
        ),
        Case(
            key="rss_mib.dynamic",
            unit="MiB",
            stats=cut,
            targets=[Target(what="MiB at most", value=cut.max, limit=72)],
            facts={"idle": cut_idle},
        ),
    ]


async def _memory_with_partitions(bench: Bench) -> tuple[float, Stats]:
    """Resident memory, idle and then in use, with all that a node of 8 GPUs can be told to offer and to write."""
    name = "gpu-{}-mig-1g10gb-19-{}"
    claims = [
        world.claim(f"claim-{index}", name.format(index % 8, index // 8 % 7), share=True) for index in range(CUT_CYCLES)
    ]
    async with (
        world.api_process(bench.directory, claims) as server,
        world.node(
            server, "--partitioning=dynamic", "--shares=unlimited", "--device-metadata", "--device-status"
        ) as node,
    ):
        started = time.perf_counter()
        idle = node.rss_mib()
        series = await _memory_over(claims, node, every=CLAIMS)
        return idle, Stats.of(series, seconds=time.perf_counter() - started)


async def _memory_over(claims: list[dict[str, Any]], node: Node, *, every: int) -> list[float]:
    """Resident memory after every so many claims that were prepared and unprepared."""
    series = []
    for done in range(0, len(claims), CLAIMS):
        batch = claims[done : done + CLAIMS]
        await concurrently(batch, node.prepare, 8)
        await concurrently(batch, node.unprepare, 8)
        if (done + CLAIMS) % every == 0:
            series.append(node.rss_mib())
    return series


async def startup(bench: Bench) -> list[Case]:
    """From exec to registered with 500 claims prepared, after the driver was killed."""
    claims = [world.claim(f"claim-{index}", f"gpu-{index % 8}", share=True) for index in range(PREPARED)]
    samples = []
    async with (
        world.api_process(bench.directory, claims) as server,
        world.node(server, "--shares=unlimited") as node,
    ):
        await concurrently(claims, node.prepare, 8)
        for _ in range(STARTS):
            await node.kubelet.close()
            await node.driver.kill()
            started = time.perf_counter()
            await node.driver.start()
            await _register(node.kubelet)
            samples.append(time.perf_counter() - started)
            await node.connect()
    stats = Stats.of([sample * 1000 for sample in samples])
    in_seconds = Stats.of(samples, seconds=sum(samples))
    return [
        Case(
            key="startup_s",
            unit="s",
            stats=in_seconds,
            targets=[Target(what="s, the slowest", value=stats.max / 1000, limit=2.5)],
        )
    ]


async def slow_hardware(bench: Bench) -> list[Case]:
    """Prepare full GPUs while the hardware takes 5 s to make a partition on another one."""
    async with world.api_process(bench.directory, []) as server, world.node(server, "--partitioning=dynamic") as node:
        async with world.client(server) as api:
            found = (await api.get(f"{RESOURCE}/resourceslices"))["items"]
            names = [device["name"] for piece in found for device in piece["spec"].get("devices") or []]
            partition = next(name for name in names if name.startswith("gpu-0-mig-1g"))
            nodes_claims = [world.claim("slow", partition)]
            nodes_claims += [world.claim(f"claim-{index}", f"gpu-{index}") for index in range(1, 8)]
            for claim in nodes_claims:
                await _create(api, claim)
        slow, *quick = nodes_claims

        async def cycle() -> list[float]:
            samples = []
            for claim in quick:
                samples.append(await timed(node.prepare(claim)))
                await node.unprepare(claim)
            return samples

        for _ in range(10):
            await cycle()
        calm: list[float] = []
        while len(calm) < 700:
            calm += await cycle()
        await node.fault("--device=gpu-0", f"--latency-ms={int(SLOW_SECONDS * 1000)}")
        disturbed: list[float] = []
        creation = asyncio.create_task(timed(node.prepare(slow)))
        while not creation.done():
            disturbed += await cycle()
        took = await creation
    quiet, busy = Stats.of(calm), Stats.of(disturbed)
    return [
        Case(
            key="slow_hardware",
            stats=busy,
            targets=[
                Target(what="p99 over undisturbed p99", value=busy.p99 / quiet.p99, limit=2),
                Target(what="ms that the creation took", value=took, limit=SLOW_SECONDS * 1000, at_least=True),
            ],
            facts={"undisturbed_p50": quiet.p50, "undisturbed_p99": quiet.p99, "creation_ms": took},
        )
    ]


async def scrape(bench: Bench) -> list[Case]:
    """CPU time of the driver for one scrape of a node with 8 GPUs cut into 56 partitions, each of which a pod has."""
    name = "gpu-{}-mig-1g10gb-19-{}"
    claims = [world.claim(f"claim-{index}", name.format(index % 8, index // 8)) for index in range(PARTITIONS)]
    async with (
        world.api_process(bench.directory, claims) as server,
        world.node(server, "--partitioning=dynamic") as node,
    ):
        await concurrently(claims, node.prepare, 8)
        text = ""
        while text.count("gpu_dra_pod_device_memory_used_bytes{") < PARTITIONS:  # until they were measured
            await asyncio.sleep(0.5)
            _, text = await node.driver.get("/metrics")
        samples = []
        for _ in range(bench.rounds * 2):
            before = node.all_cpu_ms()
            for _ in range(SCRAPES):  # the clock of threads that have ended ticks in hundredths of a second
                await node.driver.get("/metrics")
            samples.append((node.all_cpu_ms() - before) / SCRAPES)
    stats = Stats.of(samples)
    series = sum(not line.startswith("#") for line in text.splitlines())
    return [
        Case(
            key="scrape",
            stats=stats,
            targets=[Target(what="ms of CPU", value=stats.p50, limit=20)],
            facts={"series": series, "bytes": len(text)},
        )
    ]


async def _create(api: Api, claim: dict[str, Any]) -> None:
    """Make an allocated claim over HTTP; its UID is the server's."""
    collection = f"{RESOURCE}/namespaces/{world.NAMESPACE}/resourceclaims"
    metadata = {key: claim["metadata"][key] for key in ("name", "namespace")}
    made = await api.request("POST", collection, body={**claim, "metadata": metadata})
    made["status"] = {"allocation": claim["status"]["allocation"]}
    claim["metadata"] = (await api.request("PUT", f"{world.path(claim)}/status", body=made))["metadata"]


async def _register(kubelet: Kubelet) -> None:
    """Register as soon as the socket answers."""
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await kubelet.info()
            return await kubelet.notify(registered=True)
        await asyncio.sleep(0.005)


def _identity(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _write_and_rename(path: Path, content: bytes) -> float:
    """Milliseconds to write a file under another name and give it its own."""
    started = time.perf_counter()
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content)
    temporary.rename(path)
    return (time.perf_counter() - started) * 1000


CASES = {
    "serial": one_at_a_time,
    "concurrent": concurrent,
    "growth": growth,
    "api_latency": api_latency,
    "memory": memory,
    "startup": startup,
    "slow_hardware": slow_hardware,
    "scrape": scrape,
}
