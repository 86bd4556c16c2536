"""Every query of the dashboards and the autoscalers, asked of a real Prometheus that scrapes a driver with claims."""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import pytest_asyncio
import yaml

from driver.sim.process import gpu_dra
from tests.e2e.conftest import EmbeddedSite
from tests.e2e.prometheus import Prometheus, counting_page, prometheus
from tests.e2e.site import run
from tests.eventually import eventually
from tests.needs import NO_PROMETHEUS, PROMETHEUS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(PROMETHEUS is None, reason=NO_PROMETHEUS),
]

DEPLOY = Path(__file__).parents[2] / "deploy"
NODE = "node-1"
FOR = {"$__rate_interval": "5s", "$__range": "1m", "$node": ".*", "$namespace": ".*", "${datasource}": "test"}
"""What Grafana puts into a query."""
HALF_AN_HOUR = {"[30m]": "[4s]", "offset 30m": "offset 4s"}
"""In the rules, so that something can be idle before the test ends."""
BUCKETS = ("0.01", "0.1", "1", "+Inf")


def histogram(name: str, labels: str = "") -> tuple[str, ...]:
    return tuple(f'{name}_bucket{{{labels}{"," if labels else ""}le="{bound}"}}' for bound in BUCKETS)


CONTROL_PLANE = (
    'workqueue_adds_total{name="resource_claim"}',
    'workqueue_depth{name="resource_claim"}',
    *histogram("workqueue_queue_duration_seconds", 'name="resource_claim"'),
    *histogram("workqueue_work_duration_seconds", 'name="resource_claim"'),
    *histogram("scheduler_pod_scheduling_sli_duration_seconds", 'attempts="1"'),
    *histogram("scheduler_scheduling_algorithm_duration_seconds"),
)
KUBELET = (
    *histogram("dra_operations_duration_seconds", 'is_error="false",operation_name="PrepareResources"'),
    *histogram(
        "dra_grpc_operations_duration_seconds",
        'driver_name="gpu.nvidia.com",grpc_status_code="OK",method_name="/v1.DRAPlugin/NodePrepareResources"',
    ),
)
"""Names and labels as the components of Kubernetes 1.36 tell them; the embedded cluster has no metrics."""


class Query(NamedTuple):
    """One query of a panel."""

    board: str
    panel: str
    text: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.board}: {self.panel}"


def queries() -> Iterator[Query]:
    for path in sorted((DEPLOY / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                yield Query(path.stem, panel["title"], filled(target["expr"]), target["instant"])


def filled(expression: str) -> str:
    for variable, value in FOR.items():
        expression = expression.replace(variable, value)
    return expression


class Watched(NamedTuple):
    """A Prometheus that has watched a node for a while."""

    server: Prometheus
    began: float
    ended: float


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """A node on which claims were prepared, used, left idle, refused and ended, and GPUs got hot."""
    root = tmp_path_factory.mktemp("prometheus")
    async with contextlib.AsyncExitStack() as stack:
        site = await stack.enter_async_context(EmbeddedSite.running())
        pages = [await stack.enter_async_context(counting_page(*page)) for page in (CONTROL_PLANE, KUBELET)]
        targets = {"gpu-dra-driver": f"127.0.0.1:{site.driver.http_port}", "kubernetes": pages[0], "kubelet": pages[1]}
        jobs = [
            # As the chart's PodMonitor has it: the labels namespace and pod are those of the claim.
            {
                "job_name": name,
                "honor_labels": True,
                "static_configs": [{"targets": [target], "labels": {"node": NODE}}],
            }
            for name, target in targets.items()
        ]
        groups = [{"name": "recorded", "rules": recorded()}]
        server = await stack.enter_async_context(prometheus(root, jobs=jobs, groups=groups))
        began = time.time()
        await an_ordinary_minute(site, server)
        yield Watched(server, began, time.time() + 1)  # the last second has a value, too


def recorded() -> list[dict[str, Any]]:
    text = (DEPLOY / "chart" / "rules.yaml").read_text()
    for window, shorter in HALF_AN_HOUR.items():
        text = text.replace(window, shorter)
    rules: list[dict[str, Any]] = yaml.safe_load(text)
    return rules


async def an_ordinary_minute(site: EmbeddedSite, server: Prometheus) -> None:
    """Ends when Prometheus has seen all of it."""
    for job in ("gpu-dra-driver", "kubernetes", "kubelet"):
        await eventually(lambda job=job: server.series(f'count_over_time(up{{job="{job}"}}[10s]) > 1'), what=job)
    classes = yaml.safe_load_all((DEPLOY / "examples" / "00-deviceclasses.yaml").read_text())
    await site.apply([*classes, template("whole", "gpu.nvidia.com"), template("part", "mig.nvidia.com")])
    pods = {"busy": "whole", "idle": "whole", "part": "part"}
    await site.apply(site.sleeper(name, template=kind, seconds=3600) for name, kind in pods.items())
    holds = {name: device_of(await printed(site, name)) for name in pods}
    await load(site, holds["busy"], "--utilisation=80", "--memory=40Gi")
    free = next(f"gpu-{n}" for n in range(7) if f"gpu-{n}" not in "".join(holds.values()))
    await load(site, free, "--throttled=hardware_thermal", "--temperature=95")
    for name in ("first", "second"):  # claims come and go
        await site.apply([site.sleeper(name, template="whole", seconds=1)])
        await site.phase(name, "Succeeded")
    await site.fault(holds["part"].partition("-mig-")[0], "--fail-next=1")
    await site.apply([site.sleeper("refused-once", template="part", seconds=3600)])
    await site.fault(free, "--xid=79")
    for what in (
        "node_claim_device:gpu_dra_idle:max30m",
        'gpu_dra_gpu_throttled{reason="hardware_thermal"} == 1',
        "sum(rate(gpu_dra_gpu_seconds_total[5s])) > 2",
        'gpu_dra_devices{state="lost"} > 0',
        "gpu_dra_pod_device_utilisation_ratio > 0.7",
        "rate(gpu_dra_claim_errors_total[5s]) >= 0",
        'rate(gpu_dra_claim_duration_seconds_count{operation="unprepare"}[30s]) > 0',
    ):
        await eventually(lambda what=what: server.series(what), what=what)


def template(name: str, device_class: str) -> dict[str, Any]:
    request = {"name": "gpu", "exactly": {"deviceClassName": device_class}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }


async def printed(site: EmbeddedSite, pod: str) -> dict[str, dict[str, str]]:
    """What a pod that runs has printed of its GPU."""

    async def there() -> dict[str, dict[str, str]]:
        found = await site.gpus(await site.pod(pod))
        return found if found["main"] else {}

    await site.phase(pod, "Running")
    return await eventually(there)


def device_of(gpus: dict[str, dict[str, str]]) -> str:
    [device] = gpus["main"]
    return device


async def load(site: EmbeddedSite, device: str, *arguments: str) -> None:
    plugins = f"--kubelet-plugins-dir={site.cluster.plugins_dir}"
    await run(*gpu_dra("load"), f"--device={device}", *arguments, plugins)


@pytest.mark.parametrize("query", list(queries()), ids=str)
async def test_a_panel_shows_something(watched: Watched, query: Query) -> None:
    asked = query.text.removesuffix(" > 0")  # of faults that these GPUs do not have, the zeros
    if query.instant:
        found = [float(series["value"][1]) for series in await watched.server.series(asked)]
    else:
        over_time = await watched.server.over_time(asked, start=watched.began, end=watched.ended)
        found = [float(value) for series in over_time for _, value in series["values"]]

    assert any(math.isfinite(value) for value in found)


@pytest.mark.parametrize("pod", ["busy", "idle"])
async def test_an_autoscaler_sees_how_busy_a_pods_gpus_are(watched: Watched, pod: str) -> None:
    [rule] = [rule for rule in adapter_rules() if rule["name"]["as"] == "gpu_utilisation"]
    query = rule["metricsQuery"]
    # As prometheus-adapter does it.
    for word, value in {
        "<<.Series>>": rule["seriesQuery"].partition("{")[0],
        "<<.LabelMatchers>>": f'namespace="default",pod=~"{pod}"',
        "<<.GroupBy>>": "pod",
    }.items():
        query = query.replace(word, value)

    [series] = await watched.server.series(query)

    assert series["metric"] == {"pod": pod}
    assert float(series["value"][1]) == (0.8 if pod == "busy" else 0)


async def test_keda_sees_the_sum_over_the_pods(watched: Watched) -> None:
    scaled = yaml.safe_load((DEPLOY / "autoscaling" / "keda.yaml").read_text())
    [trigger] = scaled["spec"]["triggers"]

    [series] = await watched.server.series(trigger["metadata"]["query"].replace("scale-on-utilisation-.+", "busy|idle"))

    assert float(series["value"][1]) == 0.8


def adapter_rules() -> list[dict[str, Any]]:
    values = yaml.safe_load((DEPLOY / "autoscaling" / "prometheus-adapter.yaml").read_text())
    rules: list[dict[str, Any]] = values["rules"]["custom"]
    return rules
