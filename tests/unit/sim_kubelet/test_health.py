"""Device health: the cache by itself, and the way from a driver's stream to a pod's status."""

from pathlib import Path

from driver.sim.kubelet.health import Health, HealthCache, devices_of, truncate
from driver.wire import dra_health_v1_pb2
from tests.eventually import eventually
from tests.unit.sim_kubelet.fakes import device_health, pod

KEY = ("pool", "gpu-0")
HEALTHY = Health(health="Healthy")


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_a_first_report_is_a_change_and_the_same_again_is_not():
    cache = HealthCache(clock=Clock())

    assert cache.update("d", {KEY: HEALTHY}) == {KEY}
    assert cache.update("d", {KEY: HEALTHY}) == set()


def test_a_new_message_is_a_change():
    cache = HealthCache(clock=Clock())
    cache.update("d", {KEY: HEALTHY})

    assert cache.update("d", {KEY: Health(health="Healthy", message="warm")}) == {KEY}


def test_health_without_a_report_reads_as_unknown_after_its_timeout():
    clock = Clock()
    cache = HealthCache(clock=clock)
    cache.update("d", {KEY: Health(health="Healthy", message="fine", timeout=5)})

    clock.now += 5.1

    assert cache.get("d", *KEY) == Health()


def test_a_device_that_is_no_longer_reported_is_a_change_once_it_timed_out():
    clock = Clock()
    cache = HealthCache(clock=clock)
    cache.update("d", {KEY: HEALTHY})
    early = cache.update("d", {})
    clock.now += 31

    assert (early, cache.update("d", {})) == (set(), {KEY})


def test_no_timeout_means_thirty_seconds():
    message = dra_health_v1_pb2.NodeWatchResourcesResponse(devices=[device_health(1, timeout=0)])

    assert devices_of(message)[KEY].timeout == 30


def test_a_long_message_is_cut_to_1024_bytes():
    assert truncate("x" * 1025) == "x" * 1021 + "..."
    assert truncate("x" * 1024) == "x" * 1024


async def resource_health(cluster):
    found = await cluster.pod()
    statuses = found["status"]["containerStatuses"][0].get("allocatedResourcesStatus") or []
    return [(status["name"], entry.get("health"), entry.get("message")) for status in statuses
            for entry in status["resources"]]  # fmt: skip


async def test_health_of_a_claims_device_is_in_the_pods_status(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    kubelet = run_kubelet()
    await eventually(lambda: kubelet.now.plugins.instances and plugin.streams)
    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))
    await cluster.phase("Running")

    plugin.health.put_nowait([device_health(2, "XID 79")])

    async def unhealthy():
        return await resource_health(cluster) == [("claim:gpu", "Unhealthy", "XID 79")]

    await eventually(unhealthy)


async def test_the_end_of_the_stream_makes_health_unknown_and_it_is_opened_again(cluster, run_kubelet, make_plugin):
    plugin = await make_plugin().start()
    kubelet = run_kubelet()
    await eventually(lambda: kubelet.now.plugins.instances and plugin.streams)
    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))
    await cluster.phase("Running")
    plugin.health.put_nowait([device_health(1)])

    async def reads(health):
        return [entry[1] for entry in await resource_health(cluster)] == [health]

    await eventually(lambda: reads("Healthy"))
    plugin.health.put_nowait(None)
    await eventually(lambda: reads("Unknown"))
    await eventually(lambda: plugin.streams == 2)


async def test_a_plugin_that_does_not_advertise_health_is_asked_for_v1alpha1(run_kubelet, make_plugin):
    plugin = make_plugin()
    plugin.info.supported_versions[:] = ["v1.DRAPlugin"]
    await plugin.start()

    run_kubelet()

    await eventually(lambda: plugin.streams)


def unix_sockets():
    return Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()


async def test_health_and_calls_share_one_connection(cluster, run_kubelet, make_plugin, root):
    plugin = await make_plugin().start()
    kubelet = run_kubelet()
    await eventually(lambda: kubelet.now.plugins.instances and plugin.streams)
    await cluster.create_claim()
    await cluster.create_pod(pod(claims={"gpu": "claim-1"}))
    await cluster.phase("Running")

    # Each accepted connection is one more line with the listener's path.
    lines = [line for line in unix_sockets() if line.endswith(str(plugin.endpoint))]

    assert len(lines) == 2
