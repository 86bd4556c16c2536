"""A driver on a node that another driver serves already: it says so, waits, and takes over when the other is gone."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from driver.inventory.instances import Kind, identify
from driver.kube.client import RESOURCE, Api
from driver.kubelet.probes import ProbeService
from driver.wire import dra_v1_pb2, dra_v1_pb2_grpc, pluginregistration_pb2, pluginregistration_pb2_grpc
from tests.eventually import always, eventually
from tests.harness import DRIVER, NODE, OPTIONS, Claims, Driver, Kubelet, NodeDirectories

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

SLICES = f"{RESOURCE}/resourceslices"


@contextlib.contextmanager
def device_plugin(node: NodeDirectories) -> Iterator[Path]:
    """The socket of NVIDIA's device plugin, with somebody behind it."""
    directory = node.root / "device-plugins"
    directory.mkdir(exist_ok=True)
    path = directory / "nvidia-gpu.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield path
    path.unlink()


class OtherDriver(
    pluginregistration_pb2_grpc.RegistrationServicer,
    dra_v1_pb2_grpc.DRAPluginServicer,
):
    """A DRA driver as the Go helper makes them: without a health service on its sockets."""

    def __init__(self, name: str, endpoint: Path) -> None:
        self._name, self._endpoint = name, endpoint

    async def GetInfo(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        versions = ["v1.DRAPlugin", "v1beta1.DRAPlugin"]
        return pluginregistration_pb2.PluginInfo(
            type="DRAPlugin", name=self._name, endpoint=str(self._endpoint), supported_versions=versions
        )

    async def NodePrepareResources(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return dra_v1_pb2.NodePrepareResourcesResponse()


@contextlib.asynccontextmanager
async def other_driver(node: NodeDirectories, name: str = DRIVER) -> AsyncIterator[Path]:
    registrar, endpoint = node.registry / f"{name}-reg.sock", node.root / "other-dra.sock"
    servers = []
    for path in (endpoint, registrar):
        server = grpc.aio.server()
        servicer = OtherDriver(name, endpoint)
        if path == registrar:
            pluginregistration_pb2_grpc.add_RegistrationServicer_to_server(servicer, server)
        else:
            dra_v1_pb2_grpc.add_DRAPluginServicer_to_server(servicer, server)
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        servers.append(server)
    yield registrar
    for server in servers:
        await server.stop(0)


async def published(api: Api) -> list[dict[str, Any]]:
    return list((await api.get(SLICES))["items"])


async def offer(api: Api, amount: str) -> None:
    """What the kubelet writes for a device plugin."""
    node = await api.get(f"/api/v1/nodes/{NODE}")
    node["status"] = {"capacity": {"nvidia.com/gpu": amount}, "allocatable": {"nvidia.com/gpu": amount}}
    await api.request("PUT", f"/api/v1/nodes/{NODE}/status", body=node)


async def warnings(api: Api) -> list[str]:
    events = (await api.get("/api/v1/namespaces/default/events"))["items"]
    return [event["message"] for event in events if event["reason"] == "OtherDriver"]


async def test_beside_a_device_plugin_nothing_is_published_until_it_is_gone(
    run: Any, api: Api, node: NodeDirectories
) -> None:
    with device_plugin(node):
        driver: Driver = await run()
        await Kubelet(driver.registrar).notify(registered=True)
        [message] = await eventually(lambda: warnings(api)) or []
        _, page = await driver.get("/readyz")
        _, metrics = await driver.get("/metrics")
        none = await published(api)

    await eventually(lambda: published(api))
    assert none == []
    assert "nvidia-gpu.sock" in message
    assert "slices: held back" in page
    assert 'gpu_dra_other_drivers{kind="device-plugin"} 1.0' in metrics
    await eventually(driver.ready)


async def test_a_device_plugin_is_seen_by_what_the_node_offers(run: Any, api: Api) -> None:
    await offer(api, "8")
    driver: Driver = await run()
    await Kubelet(driver.registrar).notify(registered=True)
    [message] = await eventually(lambda: warnings(api)) or []
    none = await published(api)

    await offer(api, "0")

    await eventually(lambda: published(api))
    assert none == []
    assert "nvidia.com/gpu: 8" in message


async def test_an_operator_who_insists_gets_slices(run: Any, api: Api, node: NodeDirectories) -> None:
    with device_plugin(node):
        driver: Driver = await run("--ignore-other-drivers")
        await Kubelet(driver.registrar).notify(registered=True)

        await eventually(lambda: published(api))
        [message] = await eventually(lambda: warnings(api)) or []
        assert "a GPU may get two users" in message
        assert await eventually(driver.ready)


async def test_a_device_plugin_that_comes_later_taints_what_is_published(
    run: Any, api: Api, node: NodeDirectories, claims: Claims
) -> None:
    driver: Driver = await run()
    kubelet = Kubelet(driver.registrar)
    await kubelet.notify(registered=True)
    await eventually(lambda: published(api))
    claim = await claims.allocated("claim", "gpu-0")
    await kubelet.prepare(claim)

    async def taints() -> set[str]:
        [slice_] = await published(api)
        return {
            f"{taint['key']}={taint['value']}:{taint['effect']}"
            for device in slice_["spec"]["devices"]
            for taint in device.get("taints") or ()
        }

    with device_plugin(node):
        assert await eventually(taints) == {f"{DRIVER}/other-driver=device-plugin:NoSchedule"}
        assert (await kubelet.unprepare(claim))[claim["metadata"]["uid"]].error == ""

    async def no_taints() -> bool:
        return not await taints()

    await eventually(no_taints)
    await kubelet.close()


async def test_beside_another_dra_driver_of_our_name_we_do_not_register_either(
    run: Any, api: Api, node: NodeDirectories
) -> None:
    async with other_driver(node) as theirs:
        driver: Driver = await run(pod_uid="ours", wait=False)
        [message] = await eventually(lambda: warnings(api)) or []
        alive, _ = await driver.get("/healthz")
        sockets = [path.name for path in node.registry.iterdir()]
        none = await published(api)

    await driver.serving()
    await Kubelet(driver.registrar).notify(registered=True)
    await eventually(lambda: published(api))
    assert sockets == [theirs.name]
    assert none == []
    assert alive == 200
    assert "another DRA driver is registered" in message


@contextlib.asynccontextmanager
async def registered(node: NodeDirectories, *services: Any) -> AsyncIterator[Path]:
    """A driver's registration socket with these services; its other socket is where we cannot look."""
    path = node.registry / f"{DRIVER}-reg.sock"
    server = grpc.aio.server()
    hidden = OtherDriver(DRIVER, node.root / "not-mounted" / "dra.sock")
    pluginregistration_pb2_grpc.add_RegistrationServicer_to_server(hidden, server)
    for service in services:
        service.add_to(server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    yield path
    await server.stop(0)


async def test_another_driver_whose_directory_is_not_mounted_here_is_told_by_its_registration_socket(
    node: NodeDirectories,
) -> None:
    async with registered(node) as path:
        found = await identify(path)

    assert (found.kind, found.name) == (Kind.OTHER, DRIVER)


async def test_so_is_an_instance_of_ours(node: NodeDirectories) -> None:
    async def alive() -> bool:
        return True

    async with registered(node, ProbeService({"liveness": alive})) as path:
        assert (await identify(path)).kind is Kind.OURS


async def test_our_registration_socket_says_that_it_is_ours(driver: Driver) -> None:
    async with grpc.aio.insecure_channel(f"unix:{driver.registrar}", options=OPTIONS) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="liveness"))

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_what_nvidias_driver_left_behind_is_no_reason_to_wait(run: Any, api: Api, node: NodeDirectories) -> None:
    node.state.mkdir()
    (node.state / "checkpoint.json").write_text("{}")
    stale = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"00000-{DRIVER}-{NODE}-x7k2p"},
        "spec": {
            "driver": DRIVER,
            "nodeName": NODE,
            "pool": {"name": NODE, "generation": 3, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0"}],
        },
    }
    await api.request("POST", SLICES, body=stale)
    driver: Driver = await run()
    await Kubelet(driver.registrar).notify(registered=True)

    async def replaced() -> bool:
        return [slice_["metadata"]["name"] for slice_ in await published(api)] == [f"00000-{DRIVER}-{NODE}"]

    await eventually(replaced)


async def test_somebody_who_writes_our_slices_again_and_again_gets_them(run: Any, api: Api) -> None:
    driver: Driver = await run()
    await Kubelet(driver.registrar).notify(registered=True)
    await eventually(lambda: published(api))
    foreign = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"node-{DRIVER}-x7k2p"},
        "spec": {
            "driver": DRIVER,
            "nodeName": NODE,
            "pool": {"name": NODE, "generation": 9, "resourceSliceCount": 1},
            "devices": [{"name": "gpu-0"}],
        },
    }

    async def insists() -> list[str]:
        with contextlib.suppress(Exception):
            await api.request("POST", SLICES, body=foreign)
        return await warnings(api)

    [message] = await eventually(insists)
    assert "somebody else writes ResourceSlices" in message

    async def stays() -> bool:
        return any(slice_["metadata"]["name"] == foreign["metadata"]["name"] for slice_ in await published(api))

    await eventually(insists)
    await always(stays, during=1.0)
