"""The claim manager by itself: what counts as an answer, and what is known after a restart."""

import asyncio

import pytest

from driver.sim.kubelet.claiminfo import ClaimInfo, Device, DraError, claim_name, container_requests
from driver.sim.kubelet.manager import ClaimManager
from driver.sim.kubelet.metrics import KubeletMetrics
from driver.wire import dra_v1_pb2 as dra


class Api:
    def __init__(self, claims):
        self.claims = claims

    async def get(self, path, *_args, **_kwargs):
        return self.claims[path.rsplit("/", 1)[-1]]


class Plugin:
    def __init__(self, driver="d", answer=None):
        self.driver = driver
        self.answer = answer or (lambda claims: {claim.uid: {} for claim in claims})
        self.calls = []

    async def prepare(self, claims):
        self.calls.append(("prepare", [claim.uid for claim in claims]))
        return dra.NodePrepareResourcesResponse(
            claims={uid: dra.NodePrepareResourceResponse(**result) for uid, result in self.answer(claims).items()}
        )

    async def unprepare(self, claims):
        self.calls.append(("unprepare", [claim.uid for claim in claims]))
        return dra.NodeUnprepareResourcesResponse(
            claims={uid: dra.NodeUnprepareResourceResponse(**result) for uid, result in self.answer(claims).items()}
        )


class HeldPlugin(Plugin):
    """Answers to unprepare only when it is ``released``; ``asked`` says that it has been called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.asked, self.released = asyncio.Event(), asyncio.Event()

    async def unprepare(self, claims):
        self.calls.append(("unprepare", [claim.uid for claim in claims]))
        self.asked.set()
        await self.released.wait()
        return dra.NodeUnprepareResourcesResponse(
            claims={claim.uid: dra.NodeUnprepareResourceResponse() for claim in claims}
        )


class Plugins(dict):
    def get(self, driver):
        if driver not in self:
            raise DraError(f"DRA driver {driver} is not registered")
        return self[driver]


def claim(name="c1", *, drivers=("d",), pods=("u1",)):
    return {
        "metadata": {"name": name, "namespace": "ns", "uid": f"uid-{name}"},
        "status": {
            "reservedFor": [{"uid": uid} for uid in pods],
            "allocation": {"devices": {"results": [{"driver": driver} for driver in drivers]}},
        },
    }


def pod(*claims, uid="u1"):
    return {
        "metadata": {"name": f"pod-{uid}", "namespace": "ns", "uid": uid},
        "spec": {"resourceClaims": [{"name": name, "resourceClaimName": name} for name in claims], "containers": []},
    }


def manager(tmp_path, plugins, *claims):
    return ClaimManager(
        api=Api({item["metadata"]["name"]: item for item in claims}),
        plugins=Plugins({plugin.driver: plugin for plugin in plugins}),
        state_file=tmp_path / "state",
        metrics=KubeletMetrics(),
    )


async def refusal(call):
    with pytest.raises(DraError) as error:
        await call
    return str(error.value)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda _: {}, "NodePrepareResources skipped 1 ResourceClaims"),
        (lambda _: {"uid-c1": {}, "x": {}}, "NodePrepareResources returned result for unknown claim UID x"),
        (lambda _: {"uid-c1": {"error": "no"}}, "NodePrepareResources failed for ResourceClaim c1: no"),
    ],
)
async def test_answers_to_prepare_that_are_errors(tmp_path, answer, text):
    claims = manager(tmp_path, [Plugin(answer=answer)], claim())

    assert await refusal(claims.prepare(pod("c1"))) == f"prepare dynamic resources: {text}"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda _: {}, "NodeUnprepareResources skipped 1 ResourceClaims"),
        (lambda _: {"uid-c1": {}, "x": {}}, "NodeUnprepareResources returned result for unknown claim UID x"),
        (lambda _: {"uid-c1": {"error": "no"}}, "NodeUnprepareResources failed for ResourceClaim c1: no"),
    ],
)
async def test_answers_to_unprepare_that_are_errors(tmp_path, answer, text):
    plugin = Plugin()
    claims = manager(tmp_path, [plugin], claim())
    await claims.prepare(pod("c1"))
    plugin.answer = answer

    assert await refusal(claims.unprepare(pod("c1"))) == f"unprepare dynamic resources: {text}"
    assert claims.references("u1")


async def test_the_first_failing_driver_ends_it_and_nothing_is_undone(tmp_path):
    bad, good = Plugin("bad", lambda _: {}), Plugin("good")
    claims = manager(tmp_path, [bad, good], claim(drivers=("bad", "good")))

    await refusal(claims.prepare(pod("c1")))

    assert (bad.calls, good.calls) == ([("prepare", ["uid-c1"])], [])


async def test_every_driver_of_the_claim_must_be_registered_before_anything_happens(tmp_path):
    there = Plugin("there")
    claims = manager(tmp_path, [there], claim(drivers=("there", "missing")))

    assert await refusal(claims.prepare(pod("c1"))) == (
        "prepare dynamic resources: DRA driver missing is not registered"
    )
    assert there.calls == []
    assert not claims.references("u1")


async def test_only_what_is_not_prepared_is_asked_for(tmp_path):
    plugin = Plugin()
    claims = manager(tmp_path, [plugin], claim("c1", pods=("u1", "u2")), claim("c2", pods=("u2",)))
    await claims.prepare(pod("c1", uid="u1"))

    await claims.prepare(pod("c1", "c2", uid="u2"))

    assert plugin.calls == [("prepare", ["uid-c1"]), ("prepare", ["uid-c2"])]


async def test_a_pod_that_takes_a_claim_while_another_gives_it_back_gets_it_prepared_again(tmp_path):
    devices = {"devices": [dra.Device(pool_name="p", device_name="d0", cdi_device_ids=["v/c=0"])]}
    plugin = HeldPlugin(answer=lambda claims: {claim.uid: devices for claim in claims})
    claims = manager(tmp_path, [plugin], claim(pods=("u1", "u2")))
    await claims.prepare(pod("c1", uid="u1"))

    leaving = asyncio.create_task(claims.unprepare(pod("c1", uid="u1")))
    await plugin.asked.wait()
    await claims.prepare(pod("c1", uid="u2"))
    plugin.released.set()
    await leaving

    assert [method for method, _ in plugin.calls] == ["prepare", "unprepare", "prepare"]
    assert claims.claims["ns", "c1"].pods == {"u2"}
    assert claims.claims["ns", "c1"].cdi_devices("") == ["v/c=0"]


async def test_a_pod_that_gives_a_claim_back_twice_does_not_take_it_from_the_next(tmp_path):
    plugin = Plugin()
    claims = manager(tmp_path, [plugin], claim(pods=("u1", "u2")))
    await claims.prepare(pod("c1", uid="u1"))
    await claims.prepare(pod("c1", uid="u2"))

    await claims.unprepare(pod("c1", uid="u1"))
    await claims.unprepare(pod("c1", uid="u1"))

    assert plugin.calls == [("prepare", ["uid-c1"])]
    assert claims.references("u2")


async def test_a_restarted_manager_knows_the_devices_but_asks_again(tmp_path):
    devices = {"devices": [dra.Device(pool_name="p", device_name="d0", cdi_device_ids=["v/c=0"], share_id="s")]}
    plugin = Plugin(answer=lambda claims: {claim.uid: devices for claim in claims})
    await manager(tmp_path, [plugin], claim()).prepare(pod("c1"))

    again = manager(tmp_path, [plugin], claim())
    known = again.claims["ns", "c1"].drivers["d"]
    await again.prepare(pod("c1"))

    assert known[0] == Device(pool="p", name="d0", cdi_device_ids=("v/c=0",), share_id="s")
    assert [method for method, _ in plugin.calls] == ["prepare", "prepare"]


async def test_the_claim_is_written_down_before_the_driver_is_called(tmp_path):
    known = []

    def answer(claims):
        known.extend(manager(tmp_path, [], claim()).claims)
        return {claim.uid: {} for claim in claims}

    await manager(tmp_path, [Plugin(answer=answer)], claim()).prepare(pod("c1"))

    assert known == [("ns", "c1")]


async def test_a_claim_that_was_never_prepared_is_unprepared_too(tmp_path):
    plugin = Plugin(answer=lambda _: {})
    claims = manager(tmp_path, [plugin], claim())
    await refusal(claims.prepare(pod("c1")))
    plugin.answer = lambda asked: {claim.uid: {} for claim in asked}

    await claims.unprepare(pod("c1"))

    assert plugin.calls[-1] == ("unprepare", ["uid-c1"])
    assert claims.claims == {}


async def test_claims_of_pods_that_are_gone_are_unprepared_by_the_reconcile(tmp_path):
    plugin = Plugin()
    claims = manager(tmp_path, [plugin], claim())
    await claims.prepare(pod("c1"))

    kept = await claims.reconcile({"u1"})
    errors = await claims.reconcile(set())

    assert (kept, errors) == ([], [])
    assert [method for method, _ in plugin.calls] == ["prepare", "unprepare"]


def test_a_broken_checkpoint_stops_the_kubelet(tmp_path):
    (tmp_path / "state").write_text("{")

    with pytest.raises(ValueError):
        manager(tmp_path, [])


def info(*devices):
    return ClaimInfo(uid="u", name="n", namespace="ns", drivers={"d": list(devices)})


def test_a_container_entry_with_a_request_gets_its_devices_and_those_for_all_requests():
    claim_info = info(
        Device(pool="p", name="a", request_names=("one",), cdi_device_ids=("v/c=a",)),
        Device(pool="p", name="b", request_names=("two",), cdi_device_ids=("v/c=b",)),
        Device(pool="p", name="c", cdi_device_ids=("v/c=c",)),
    )

    assert claim_info.cdi_devices("one") == ["v/c=a", "v/c=c"]
    assert claim_info.cdi_devices("") == ["v/c=a", "v/c=b", "v/c=c"]


def test_a_generated_claim_has_its_name_in_the_pods_status():
    body = pod()
    entry = {"name": "gpu", "resourceClaimTemplateName": "t"}
    body["status"] = {"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "pod-gpu-x"}]}

    assert claim_name(body, entry) == ("pod-gpu-x", True)


def test_a_generated_claim_that_is_not_there_yet_is_an_error():
    with pytest.raises(DraError, match='pod "ns/pod-u1": ResourceClaim not created yet'):
        claim_name(pod(), {"name": "gpu", "resourceClaimTemplateName": "t"})


def test_extended_resources_map_to_requests_of_their_claim():
    body = pod()
    container = {"name": "main", "resources": {"requests": {"nvidia.com/gpu": "1"}}}
    body["status"] = {
        "extendedResourceClaimStatus": {
            "resourceClaimName": "x",
            "requestMappings": [
                {"containerName": "main", "resourceName": "nvidia.com/gpu", "requestName": "container-0-request-0"},
                {"containerName": "other", "resourceName": "nvidia.com/gpu", "requestName": "container-1-request-0"},
            ],
        }
    }

    assert container_requests(body, container) == [("x", "container-0-request-0")]


async def test_a_generated_claim_of_somebody_else_is_refused(tmp_path):
    body = pod()
    body["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": "t"}]
    body["status"] = {"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "c1"}]}
    claims = manager(tmp_path, [Plugin()], claim())

    assert await refusal(claims.prepare(body)) == (
        "prepare dynamic resources: ResourceClaim ns/c1 was not created for Pod ns/pod-u1 (Pod is not owner)"
    )
