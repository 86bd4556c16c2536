"""What the server refuses in a ResourceSlice, as a real v1.36.2 does (recorded from one)."""

import pytest

from driver.sim.apiserver import GATES, ApiServer
from driver.sim.apiserver.access import ADMIN
from driver.sim.apiserver.call import Call
from driver.sim.apiserver.errors import StatusError
from driver.sim.apiserver.resources import BY_PATH
from tests.unit.sim_apiserver.cluster import resource_slice

SLICES = BY_PATH["resource.k8s.io", "v1", "resourceslices"]
LABEL = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'"
ONE_OF = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
COUNTER = {"m": {"value": "1"}}


def refusal(body, gates=GATES) -> str:
    """The message with which the slice is refused, empty if it is not."""
    try:
        created(body, gates)
    except StatusError as error:
        if error.code != 422:
            raise
        return error.message.removeprefix(f'ResourceSlice.resource.k8s.io "{body["metadata"]["name"]}" is invalid: ')
    return ""


def created(body, gates=GATES):
    server = ApiServer(gates=gates)
    return server.engine.create(Call(resource=SLICES, name="", user=ADMIN), body).obj


def device(**fields):
    return resource_slice(devices=[{"name": "gpu-0", **fields}])


def shared(policy):
    return device(allowMultipleAllocations=True, capacity={"m": {"value": "10Gi", "requestPolicy": policy}})


def devices(count, **fields):
    return resource_slice(devices=[{"name": f"gpu-{index}", **fields} for index in range(count)])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (resource_slice(driver=...), "spec.driver: Required value"),
        (resource_slice(driver="d" * 64), "spec.driver: Too long: may not be more than 63 bytes"),
        (resource_slice(driver="a_b"), 'spec.driver: Invalid value: "a_b": a lowercase RFC 1123 subdomain'),
        (resource_slice(pool={"name": "a//b", "resourceSliceCount": 1, "generation": 0}), "spec.pool.name: Invalid"),
        (
            resource_slice(pool={"name": "p", "resourceSliceCount": 0, "generation": 1}),
            "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
        ),
        (resource_slice(nodeName=...), ONE_OF),
        (resource_slice(allNodes=True), f'spec: Invalid value: "{{`nodeName`, `allNodes`}}": {ONE_OF}'),
        (
            resource_slice(devices=[], sharedCounters=[]),
            'spec: Invalid value: "": only one of `sharedCounters` or `devices` is allowed',
        ),
        (devices(129), "spec.devices: Too many: 129: must have at most 128 items"),
        (
            devices(65, taints=[{"key": "a", "effect": "None"}]),
            "spec.devices: Too many: 65: must have at most 64 items",
        ),
        (
            devices(65, consumesCounters=[{"counterSet": "c", "counters": COUNTER}]),
            "spec.devices: Too many: 65: must have at most 64 items",
        ),
        (resource_slice(devices=[{"name": "a"}, {"name": "a"}]), 'spec.devices[1]: Duplicate value: "a"'),
        (resource_slice(devices=[{"name": "A"}]), f'spec.devices[0].name: Invalid value: "A": {LABEL}'),
        (
            resource_slice(sharedCounters=[{"name": f"c{i}", "counters": COUNTER} for i in range(9)]),
            "spec.sharedCounters: Too many: 9: must have at most 8 items",
        ),
        (
            resource_slice(sharedCounters=[{"name": "c", "counters": {f"m{i}": {"value": "1"} for i in range(33)}}]),
            "spec.sharedCounters[0].counters: Too many: 33: must have at most 32 items",
        ),
        (resource_slice(sharedCounters=[{"name": "c"}]), "spec.sharedCounters[0].counters: Required value"),
        (
            device(consumesCounters=[{"counterSet": f"c{i}", "counters": COUNTER} for i in range(3)]),
            "spec.devices[0].consumesCounters: Too many: 3: must have at most 2 items",
        ),
        (
            device(
                attributes={f"a{i}": {"int": 1} for i in range(30)},
                capacity={f"c{i}": {"value": "1"} for i in range(3)},
            ),
            "spec.devices[0]: Invalid value: 33: the total number of attributes and capacities must not exceed 32",
        ),
        (device(attributes={"a": {}}), 'spec.devices[0].attributes[a]: Invalid value: "": exactly one value must be'),
        (
            device(attributes={"a": {"string": "é" * 33}}),
            "attributes[a].string: Too long: may not be more than 64 bytes",
        ),
        (
            device(attributes={"a" * 33: {"int": 1}}),
            "spec.devices[0].attributes: Too long: may not be more than 32 bytes",
        ),
        (device(attributes={"a-b": {"int": 1}}), "a valid C identifier is expected"),
        (
            device(attributes={"/a": {"int": 1}}),
            "spec.devices[0].attributes: Required value",
        ),
        (
            device(capacity={"m": {"value": "1", "requestPolicy": {"default": "1"}}}),
            "spec.devices[0].capacity[m].requestPolicy: Forbidden: allowMultipleAllocations must be true",
        ),
        (
            shared({"validValues": ["1Gi"]}),
            "requestPolicy.default: Required value: required when validValues or validRange is defined",
        ),
        (shared({"default": "1Gi", "validValues": ["2Gi", "1Gi"]}), "values must be sorted in ascending order"),
        (
            shared({"default": "3Gi", "validValues": ["1Gi"]}),
            "default value is not valid according to the requestPolicy",
        ),
        (shared({"default": "1Gi", "validValues": ["1Gi", "20Gi"]}), "option is larger than capacity value: 10Gi"),
        (
            shared({"default": "1", "validValues": [str(i) for i in range(1, 12)]}),
            "validValues: Too many: 11: must have at most 10 items",
        ),
        (
            shared({"default": "1Gi", "validValues": ["1Gi"], "validRange": {"min": "1"}}),
            "at the same time",
        ),
        (shared({"default": "1Gi", "validRange": {}}), "validRange.min: Required value: required when validRange is"),
        (shared({"default": "1Gi", "validRange": {"min": "2Gi"}}), "the default is not between 2Gi and 10Gi"),
        (
            shared({"default": "1Gi", "validRange": {"min": "1Gi", "max": "20Gi"}}),
            "must be between min",
        ),
        (
            shared({"default": "1Gi", "validRange": {"min": "1Gi", "step": "11Gi"}}),
            "one step is larger than",
        ),
        (
            shared({"default": "2Gi", "validRange": {"min": "1Gi", "step": "700Mi"}}),
            'step: Invalid value: "2Gi": value is not a multiple of a given step (700Mi) from (1Gi)',
        ),
        (shared({"default": "1", "validRange": {"min": "1", "step": "0"}}), "is not a multiple of a given step (0)"),
        (device(taints=[{"key": "a"}]), "spec.devices[0].taints[0].effect: Required value"),
        (
            device(taints=[{"key": "a", "effect": "Foo"}]),
            'effect: Unsupported value: "Foo": supported values: "NoExecute", "NoSchedule", "None"',
        ),
        (
            device(taints=[{"key": f"a{i}", "effect": "None"} for i in range(17)]),
            "spec.devices[0].taints: Too many: 17: must have at most 16 items",
        ),
        (resource_slice("A_b"), 'metadata.name: Invalid value: "A_b": a lowercase RFC 1123 subdomain'),
    ],
)
def test_a_slice_outside_the_rules_is_refused(body, message: str) -> None:
    assert message in refusal(body)


@pytest.mark.parametrize(
    "body",
    [
        resource_slice(),
        resource_slice(driver="A.B"),
        devices(128),
        devices(64, taints=[{"key": "a", "effect": "None"}]),
        device(attributes={"a": {"string": "x" * 64}}),
        shared({"default": "1Gi", "validRange": {"min": "1Gi", "step": "1Gi", "max": "8Gi"}}),
    ],
)
def test_a_slice_within_the_rules_is_stored(body) -> None:
    assert refusal(body) == ""


@pytest.mark.parametrize(
    ("version", "good"),
    [
        ("550.54.15", True),
        ("535.104.05", False),
        ("12.4", False),
        ("1.2.3-a.1+b", True),
        ("1.2.3-01", False),
        ("v1.2.3", False),
        ("", False),
    ],
)
def test_versions_are_strictly_semver(version: str, good: bool) -> None:
    message = refusal(device(attributes={"v": {"version": version}}))
    assert ("must be a string compatible with semver.org spec 2.0.0" in message) is not good


def test_several_errors_are_listed() -> None:
    with pytest.raises(StatusError) as error:
        created(resource_slice(driver=..., nodeName=...))
    assert error.value.message.startswith('ResourceSlice.resource.k8s.io "slice" is invalid: [spec.driver: ')


def test_the_time_of_a_taint_is_set_and_kept() -> None:
    taints = created(device(taints=[{"key": "a", "effect": "NoExecute"}]))["spec"]["devices"][0]["taints"]
    assert taints[0]["timeAdded"].endswith("Z")
    given = "2026-01-01T00:00:00Z"
    kept = created(device(taints=[{"key": "a", "effect": "NoExecute", "timeAdded": given}]))
    assert kept["spec"]["devices"][0]["taints"][0]["timeAdded"] == given


@pytest.mark.parametrize(
    ("gate", "field", "value"),
    [
        ("DRADeviceTaints", "taints", [{"key": "a", "effect": "None"}]),
        ("DRAPartitionableDevices", "consumesCounters", [{"counterSet": "c", "counters": COUNTER}]),
        ("DRAConsumableCapacity", "allowMultipleAllocations", True),
    ],
)
def test_fields_behind_a_gate_that_is_off_are_dropped(gate: str, field: str, value) -> None:
    assert field in created(device(**{field: value}))["spec"]["devices"][0]
    assert field not in created(device(**{field: value}), GATES - {gate})["spec"]["devices"][0]


def test_list_attributes_are_behind_a_gate_that_is_off() -> None:
    assert "exactly one value must be specified" in refusal(device(attributes={"a": {"ints": [1]}}))


@pytest.mark.parametrize("field", ["driver", "nodeName", "pool.name"])
async def test_identity_is_immutable(cluster, field: str) -> None:
    path = "/apis/resource.k8s.io/v1/resourceslices"
    await cluster.create(path, resource_slice())
    change = {"pool": {"name": "x"}} if field == "pool.name" else {field: "x"}
    with pytest.raises(Exception, match=rf"spec\.{field}: Invalid value: \"x\": field is immutable"):
        await cluster.merge(f"{path}/slice", {"spec": change})
