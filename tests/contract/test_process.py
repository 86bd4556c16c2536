"""The process as a kubelet and an operator meet it: registration, probes, pages, signals, bad settings."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from driver.kube.client import MERGE_PATCH, RESOURCE
from driver.kubelet.serving import GRACE
from driver.sim.apiserver.faults import Fault
from tests.eventually import PATIENCE, eventually
from tests.harness import DRIVER, NODE, OPTIONS, Claims, Driver, Kubelet, NodeDirectories, read_spec

if TYPE_CHECKING:
    from driver.kube.client import Api
    from driver.sim.apiserver import ApiServer

GPU_DRA = (sys.executable, "-m", "driver")
SLICES = f"{RESOURCE}/resourceslices"


async def health(address: str, service: str) -> int:
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int((await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)).status)


async def published(api: Api) -> list[dict[str, Any]]:
    return list((await api.get(SLICES))["items"])


async def test_the_plugin_names_its_type_its_services_and_an_absolute_endpoint(
    driver: Driver, kubelet: Kubelet, node: NodeDirectories
) -> None:
    info = await kubelet.info()

    assert info.type == "DRAPlugin"
    assert info.name == DRIVER
    assert info.endpoint == str(node.state / "dra.sock")
    assert list(info.supported_versions) == ["v1.DRAPlugin", "v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth"]


async def test_a_driver_registers_without_an_api_server(server: ApiServer, run: Any) -> None:
    await server.stop()

    driver = await run()
    await Kubelet(driver.registrar).notify(registered=True)

    status, missing = await driver.get("/readyz")
    assert status == 503
    assert "kubelet" not in missing


async def test_a_registered_and_published_driver_is_ready(driver: Driver, kubelet: Kubelet) -> None:
    await kubelet.notify(registered=True)

    assert await eventually(driver.ready)


async def test_a_driver_that_the_kubelet_refused_is_live_and_not_ready(driver: Driver, kubelet: Kubelet) -> None:
    await kubelet.notify(registered=False, error="no thanks")

    address = f"127.0.0.1:{driver.health_port}"
    assert await health(address, "liveness") == health_pb2.HealthCheckResponse.SERVING
    assert await health(address, "readiness") == health_pb2.HealthCheckResponse.NOT_SERVING
    assert driver.said("the kubelet refused the registration: no thanks")


@pytest.mark.parametrize("service", ["", "liveness"])
async def test_the_probe_port_and_the_dra_socket_answer_health_checks(
    driver: Driver, kubelet: Kubelet, service: str
) -> None:
    endpoint = (await kubelet.info()).endpoint

    for address in (f"127.0.0.1:{driver.health_port}", f"unix:{endpoint}"):
        assert await health(address, service) == health_pb2.HealthCheckResponse.SERVING


async def test_a_health_service_that_does_not_exist_is_not_found(driver: Driver) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await health(f"127.0.0.1:{driver.health_port}", "lifeness")

    assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    assert "'liveness'" in str(failure.value.details())


async def test_liveness_notices_a_socket_that_has_gone(driver: Driver) -> None:
    driver.registrar.unlink()

    status = await health(f"127.0.0.1:{driver.health_port}", "liveness")

    assert status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_without_an_api_server_the_driver_is_live_not_ready_and_publishes_when_it_is_back(
    server: ApiServer, api: Api, run: Any
) -> None:
    await server.stop()
    driver = await run()
    alive = await driver.get("/healthz")
    unready = await driver.get("/readyz")

    await server.start()

    slices = await eventually(lambda: published(api))
    assert alive[0] == 200
    assert unready[0] == 503
    assert len(slices[0]["spec"]["devices"]) == 8


async def test_a_driver_that_cannot_write_specs_is_not_ready_and_its_devices_get_no_claims(
    node: NodeDirectories, api: Api, run: Any
) -> None:
    node.cdi.rmdir()
    node.cdi.write_text("a file where the directory should be")

    driver = await run()

    await Kubelet(driver.registrar).notify(registered=True)
    slices = await eventually(lambda: published(api))
    taint = {"key": f"{DRIVER}/unpreparable", "value": "cdi-root", "effect": "NoSchedule"}
    for device in slices[0]["spec"]["devices"]:
        assert [{key: found[key] for key in taint} for found in device["taints"]] == [taint]
    status, missing = await driver.get("/readyz")
    assert status == 503
    assert f"node: cdi-root: CDI specs cannot be written: {node.cdi}" in missing
    assert 'gpu_dra_node_defects{defect="cdi-root"} 1.0' in (await driver.get("/metrics"))[1]
    assert "cdi-root" in json.loads((await driver.get("/status"))[1])["nodeDefects"]


async def test_a_forbidden_list_names_verb_and_resource(api: Api, run: Any) -> None:
    role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/gpu-dra-driver"
    await api.request("PATCH", role, body={"rules": []}, content_type=MERGE_PATCH)
    driver = await run()

    await eventually(lambda: driver.said('cannot list resource "resourceslices" in API group "resource.k8s.io"'))


async def test_sigterm_leaves_slices_and_records_and_takes_the_sockets_along(
    driver: Driver, kubelet: Kubelet, claims: Claims, node: NodeDirectories, api: Api
) -> None:
    await kubelet.prepare(await claims.allocated("claim", "gpu-0"))
    before = await eventually(lambda: published(api))

    status = await driver.stop()

    assert status == 0
    assert node.sockets() == []
    assert len(node.records()) == 1
    assert await published(api) == before


async def test_sigterm_lets_a_call_in_flight_finish(
    driver: Driver, kubelet: Kubelet, claims: Claims, server: ApiServer
) -> None:
    claim = await claims.allocated("claim", "gpu-0")
    asked = asyncio.Event()

    def slow(request: Any) -> Fault | None:
        if request.resource != "resourceclaims":
            return None
        asked.set()
        return Fault(delay=1.0)

    server.fault = slow
    call = asyncio.create_task(kubelet.prepare(claim))
    await asked.wait()

    driver.signal(signal.SIGTERM)

    answer = (await call)[claim["metadata"]["uid"]]
    assert answer.error == ""
    assert await driver.ended() == 0


async def test_sigterm_does_not_wait_for_the_health_stream(driver: Driver, kubelet: Kubelet) -> None:
    from driver.wire import dra_health_v1_pb2, dra_health_v1_pb2_grpc

    stub = dra_health_v1_pb2_grpc.DRAResourceHealthStub(await kubelet.connect())
    stream = stub.NodeWatchResources(dra_health_v1_pb2.NodeWatchResourcesRequest())
    await stream.read()
    started = time.monotonic()

    await driver.stop()

    assert time.monotonic() - started < GRACE


async def test_a_restart_after_sigkill_replaces_the_dead_sockets_and_answers_as_before(
    driver: Driver, kubelet: Kubelet, claims: Claims, run: Any
) -> None:
    claim = await claims.allocated("claim", "gpu-3")
    before = await kubelet.prepare(claim)
    await driver.kill()

    successor = await run()

    again = Kubelet(successor.registrar)
    assert await again.prepare(claim) == before
    await again.close()


async def test_a_successor_of_another_pod_removes_the_sockets_of_a_killed_one(
    run: Any, api: Api, node: NodeDirectories
) -> None:
    first = await run(pod_uid="first")
    await first.kill()

    await run(pod_uid="second")

    assert node.sockets() == ["dra-second.sock", f"{DRIVER}-second-reg.sock"]


async def test_a_second_driver_with_the_same_sockets_is_refused(driver: Driver, run: Any) -> None:
    second = await run(wait=False)

    assert await second.ended() == 1
    assert "another process serves" in second.log
    assert await driver.answers()


async def test_two_instances_serve_one_node(run: Any, api: Api, claims: Claims) -> None:
    old, new = await run(pod_uid="old"), await run(pod_uid="new")
    claim = await claims.allocated("claim", "gpu-0")
    kubelets = Kubelet(old.registrar), Kubelet(new.registrar)

    answers = [await kubelet.prepare(claim) for kubelet in kubelets]
    await kubelets[1].unprepare(claim)

    for kubelet in kubelets:
        await kubelet.close()
    assert answers[0] == answers[1]
    assert old.node.records() == []


async def test_the_metrics_page_counts_what_happened(driver: Driver, kubelet: Kubelet, claims: Claims) -> None:
    await kubelet.prepare(await claims.allocated("claim", "gpu-0"))

    await kubelet.notify(registered=True)
    await eventually(driver.ready)

    _, page = await driver.get("/metrics")

    assert 'gpu_dra_claim_duration_seconds_count{operation="prepare",result="success"} 1.0' in page
    assert 'gpu_dra_prepare_phase_duration_seconds_count{phase="claim_read"} 1.0' in page
    assert "gpu_dra_prepared_claims 1.0" in page
    assert 'gpu_dra_devices{state="healthy",type="gpu"} 8.0' in page
    assert (
        f'dra_grpc_operations_duration_seconds_count{{driver_name="{DRIVER}",grpc_status_code="OK",'
        'method_name="/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources"} 1.0'
    ) in page


async def test_each_claim_is_one_line_of_json_when_asked(run: Any, api: Api, claims: Claims) -> None:
    driver = await run()
    kubelet = Kubelet(driver.registrar)
    claim = await claims.allocated("claim", "gpu-0")

    await kubelet.prepare(claim)
    await kubelet.close()

    lines = [json.loads(line) for line in driver.log.splitlines()]
    [line] = [line for line in lines if line.get("claim") == "default/claim"]
    assert line["message"] == "prepared claim"
    assert line["claim_uid"] == claim["metadata"]["uid"]
    assert line["devices"] == ["gpu-0"]
    assert line["duration_ms"] > 0


async def test_the_fault_command_taints_the_device_of_a_running_driver(
    driver: Driver, api: Api, node: NodeDirectories
) -> None:
    await eventually(lambda: published(api))

    outcome = await asyncio.to_thread(
        subprocess.run,
        [
            sys.executable,
            "-m",
            "driver",
            "fault",
            "--device=gpu-3",
            "--xid=79",
            f"--kubelet-plugins-dir={node.plugins}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )

    async def taints() -> list[dict[str, Any]] | None:
        [slice_] = await published(api)
        found: list[dict[str, Any]] | None = slice_["spec"]["devices"][3].get("taints")
        return found

    [taint] = await eventually(taints) or []
    assert (taint["key"], taint["value"], taint["effect"]) == (f"{DRIVER}/xid", "79", "NoExecute")
    assert "XID 79" in outcome.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--node-name (NODE_NAME) is required"),
        (["--node-name=UPPER"], "--node-name (NODE_NAME) was given 'UPPER'"),
        (["--node-name=n", "--health-port=70000"], "--health-port (HEALTH_PORT) was given '70000'"),
        (
            ["--node-name=n", "--devices=toaster"],
            "'nvml', 'fake:<profile>' or 'fake:<path to a YAML file>' is expected",
        ),
        (["--node-name=n", "--log-level=loud"], "'debug', 'info', 'warning' or 'error'"),
        (["--node-name=n", "--cdi-root=relative"], "an absolute path is expected"),
        (["--node-name=n", "--kubeconfig=/nonexistent"], "kubeconfig /nonexistent does not exist"),
        (["--node-name=n", f"--driver-name={'a' * 63}", "--pod-uid=" + "b" * 36], "107 fit"),
        (["--node-name=n", "--no-such-flag"], "--no-such-flag"),
    ],
)
def test_a_wrong_setting_ends_with_status_2_and_one_line(flags: list[str], words: str, tmp_path: Any) -> None:
    outcome = subprocess.run(
        [*GPU_DRA, "run", f"--kubelet-plugins-dir={tmp_path}/p", *flags],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
        check=False,
        timeout=PATIENCE,
    )

    assert outcome.returncode == 2
    assert words in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("devices", "words"),
    [
        ("fake:h100x9000", "h100x8"),
        ("fake:/nonexistent.yaml", "/nonexistent.yaml"),
    ],
)
async def test_an_unknown_profile_ends_with_status_2_and_what_is_known(run: Any, devices: str, words: str) -> None:
    driver = await run(f"--devices={devices}", wait=False)

    assert await driver.ended() == 2
    assert words in driver.log


async def test_a_malformed_profile_is_shown_with_file_and_line(run: Any, node: NodeDirectories) -> None:
    profile = node.root / "mine.yaml"
    profile.write_text("driver_version: 1.2.3\ncuda_version: '12.4'\nmodel: {\ngpus: [")
    driver = await run(f"--devices=fake:{profile}", wait=False)

    assert await driver.ended() == 2
    assert f"{profile}:4" in driver.log


@pytest.mark.parametrize("lost", ["files", "directory"])
async def test_cdi_specs_that_are_lost_under_a_running_driver_come_back_as_they_were(
    driver: Driver, kubelet: Kubelet, claims: Claims, node: NodeDirectories, lost: str
) -> None:
    await kubelet.prepare(await claims.allocated("claim", "gpu-0"))
    [spec] = node.cdi.glob("*.json")
    before = spec.read_bytes()

    if lost == "files":
        spec.unlink()
    else:
        shutil.rmtree(node.cdi)

    await eventually(lambda: spec.exists() and spec.read_bytes() == before)


async def test_a_prepared_claim_can_be_used_by_a_runtime(
    driver: Driver, kubelet: Kubelet, claims: Claims, node: NodeDirectories
) -> None:
    claim = await claims.allocated("claim", "gpu-0", "gpu-5")

    answer = (await kubelet.prepare(claim))[claim["metadata"]["uid"]]

    spec = read_spec(node, claim)
    names = {f"{spec['kind']}={device['name']}" for device in spec["devices"]}
    assert {cdi_id for device in answer.devices for cdi_id in device.cdi_device_ids} == names
    assert [(d.pool_name, list(d.request_names)) for d in answer.devices] == [(NODE, ["req-0"]), (NODE, ["req-1"])]


async def test_a_signal_shows_where_tasks_and_threads_stand_and_stops_nothing(driver: Driver) -> None:
    driver.signal(signal.SIGUSR1)

    await eventually(lambda: driver.said("most recent call first") and driver.messages("task"))
    waits = {str(line["task"]): str(line["waits_in"]) for line in driver.messages("task")}
    assert "supervised (driver.base.supervised:" in waits["publish"]
    assert "Publisher.run (driver.inventory." in waits["publish"]
    assert (await driver.get("/healthz"))[0] == 200
