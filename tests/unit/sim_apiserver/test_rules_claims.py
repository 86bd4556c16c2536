"""What the server refuses in claims, their status, classes and templates, in the words of a real v1.36.2."""

import pytest

from driver.sim.apiserver import ApiServer
from tests.unit.sim_apiserver.cluster import CLAIMS, CORE, DRA, allocation, claim, refused, result

STATUS = f"{CLAIMS}/claim/status"
CLASSES = f"{DRA}/deviceclasses"
SHARE = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
REFERENCE = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"


def exactly(**fields):
    return claim(requests=[{"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com", **fields}}])


def config(**opaque):
    return claim(config=[{"opaque": opaque}])


async def test_counts_and_modes_are_defaulted(cluster) -> None:
    created = await cluster.create(CLAIMS, claim())
    wanted = {"deviceClassName": "gpu.example.com", "allocationMode": "ExactCount", "count": 1}
    assert created["spec"]["devices"]["requests"][0]["exactly"] == wanted


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (claim(requests=[{"name": "g"}]), "exactly one of `exactly` or `firstAvailable` is required"),
        (claim(requests=[{"name": "g", "exactly": {}}]), "requests[0].exactly.deviceClassName: Required value"),
        (
            claim(requests=[{"name": f"g{i}", "exactly": {"deviceClassName": "c"}} for i in range(33)]),
            "spec.devices.requests: Too many: 33: must have at most 32 items",
        ),
        (
            claim(
                requests=[
                    {"name": "g", "firstAvailable": [{"name": f"x{i}", "deviceClassName": "c"} for i in range(9)]}
                ]
            ),
            "firstAvailable: Too many: 9: must have at most 8 items",
        ),
        (exactly(count=-1), "exactly.count: Invalid value: -1: must be greater than zero"),
        (exactly(allocationMode="All", count=1), "must not be specified when allocationMode is 'All'"),
        (exactly(allocationMode="Foo"), 'Unsupported value: "Foo": supported values: "All", "ExactCount"'),
        (exactly(adminAccess=True), "requires the `resource.kubernetes.io/admin-access: true` label"),
        (exactly(selectors=[{}]), "selectors[0].cel: Required value"),
        (exactly(selectors=[{"cel": {"expression": "x" * 10241}}]), "Too long: may not be more than 10240 bytes"),
        (exactly(tolerations=[{"operator": "Exists", "value": "x"}]), "must be empty for operator `Exists`"),
        (claim(constraints=[{"matchAttribute": "a"}]), "a fully qualified name must be a domain and a name"),
        (claim(constraints=[{"matchAttribute": "a.b/c", "requests": ["x"]}]), REFERENCE),
        (claim(config=[{}]), "spec.devices.config[0].opaque: Required value"),
        (
            config(driver="a.b", parameters="x"),
            'opaque.parameters: Invalid value: "<value omitted>": must be a valid JSON',
        ),
        (
            config(driver="a.b", parameters={"a": "x" * 10240}),
            "opaque.parameters: Too long: may not be more than 10240",
        ),
    ],
)
async def test_a_claim_outside_the_rules_is_refused(cluster, body, message: str) -> None:
    async with refused(422) as refusal:
        await cluster.create(CLAIMS, body)
    assert message in refusal.message


async def test_admin_access_is_granted_by_a_label_of_the_namespace(cluster) -> None:
    label = {"resource.kubernetes.io/admin-access": "true"}
    await cluster.merge(f"{CORE}/namespaces/default", {"metadata": {"labels": label}})
    assert await cluster.create(CLAIMS, exactly(adminAccess=True))


async def test_the_spec_of_a_claim_is_immutable(cluster) -> None:
    await cluster.create(CLAIMS, claim())
    async with refused(422) as refusal:
        await cluster.put(f"{CLAIMS}/claim", exactly(count=2))
    assert refusal.message.endswith("field is immutable")


async def test_selectors_are_compiled_where_a_compiler_is_given(tmp_path) -> None:
    from driver.kube.client import Api
    from tests.unit.sim_apiserver.cluster import Cluster

    async with (
        ApiServer(compile_cel=lambda text: None if "device" in text else "compilation failed: no device") as server,
        await Api.connect(server.write_kubeconfig(tmp_path / "kubeconfig")) as api,
        refused(422) as refusal,
    ):
        await Cluster(api).create(CLAIMS, exactly(selectors=[{"cel": {"expression": "tr ue"}}]))
    assert 'expression: Invalid value: "tr ue": compilation failed: no device' in refusal.message


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (
            {"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]},
            "may not be specified when `allocated` is not",
        ),
        ({"devices": [{"driver": "d.x", "pool": "p", "device": "g"}]}, "must be an allocated device in the claim"),
        (
            {
                "allocation": allocation(),
                "reservedFor": [{"resource": "pods", "name": "p", "uid": f"u{i}"} for i in range(257)],
            },
            "status.reservedFor: Too many: 257: must have at most 256 items",
        ),
        (
            {"allocation": allocation(), "reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}] * 2},
            'status.reservedFor[1]: Duplicate value: "u"',
        ),
        (
            {"allocation": allocation(), "devices": [{**result(), "request": ..., "conditions": [{"type": "Ready"}]}]},
            "conditions[0].lastTransitionTime: Required value",
        ),
    ],
)
async def test_a_status_outside_the_rules_is_refused(cluster, status, message: str) -> None:
    for item in status.get("devices", []):
        item.pop("request", None)
    await cluster.create(CLAIMS, claim())
    async with refused(422) as refusal:
        await cluster.merge(STATUS, {"status": status})
    assert message in refusal.message


async def test_an_allocation_is_immutable_until_it_is_cleared(cluster) -> None:
    await cluster.create(CLAIMS, claim())
    await cluster.merge(STATUS, {"status": {"allocation": allocation()}})
    async with refused(422) as refusal:
        await cluster.merge(STATUS, {"status": {"allocation": allocation(result(device="gpu-1"))}})
    assert "status.allocation: Invalid value" in refusal.message
    await cluster.merge(STATUS, {"status": {"allocation": None}})
    changed = await cluster.merge(STATUS, {"status": {"allocation": allocation(result(device="gpu-1"))}})
    assert changed["status"]["allocation"]["devices"]["results"][0]["device"] == "gpu-1"


async def test_the_status_of_deallocated_devices_is_dropped(cluster) -> None:
    await cluster.create(CLAIMS, claim())
    device = {key: value for key, value in result(shareID=SHARE).items() if key != "request"}
    status = {"allocation": allocation(result(shareID=SHARE)), "devices": [device]}
    await cluster.merge(STATUS, {"status": status})
    changed = await cluster.merge(STATUS, {"status": {"allocation": None}})
    assert changed["status"] == {}


async def test_nobody_is_added_to_a_claim_that_is_being_deleted(cluster) -> None:
    body = claim()
    body["metadata"]["finalizers"] = ["resource.kubernetes.io/delete-protection"]
    await cluster.create(CLAIMS, body)
    await cluster.merge(STATUS, {"status": {"allocation": allocation()}})
    await cluster.delete(f"{CLAIMS}/claim")
    async with refused(422) as refusal:
        await cluster.merge(STATUS, {"status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}})
    assert "new entries may not be added" in refusal.message


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"selectors": [{}]}, "spec.selectors[0].cel: Required value"),
        ({"extendedResourceName": "gpu"}, 'Invalid value: "gpu": must be a valid extended resource name'),
        ({"config": [{}]}, "spec.config[0].opaque: Required value"),
    ],
)
async def test_a_class_outside_the_rules_is_refused(cluster, spec, message: str) -> None:
    async with refused(422) as refusal:
        await cluster.create(CLASSES, {"metadata": {"name": "c"}, "spec": spec})
    assert message in refusal.message


async def test_a_template_is_checked_like_a_claim_and_never_changes(cluster) -> None:
    templates = f"{DRA}/namespaces/default/resourceclaimtemplates"
    async with refused(422) as refusal:
        await cluster.create(templates, {"metadata": {"name": "t"}, "spec": {"spec": claim(config=[{}])["spec"]}})
    assert "spec.spec.devices.config[0].opaque: Required value" in refusal.message
    await cluster.create(templates, {"metadata": {"name": "t"}, "spec": {"spec": claim()["spec"]}})
    async with refused(422):
        await cluster.merge(f"{templates}/t", {"spec": {"metadata": {"labels": {"a": "b"}}}})


async def test_a_taint_rule_gets_its_time(cluster) -> None:
    rules = "/apis/resource.k8s.io/v1beta2/devicetaintrules"
    body = {"metadata": {"name": "r"}, "spec": {"taint": {"key": "a", "effect": "NoExecute"}}}
    assert (await cluster.create(rules, body))["spec"]["taint"]["timeAdded"]
