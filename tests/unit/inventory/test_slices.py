"""What we publish.

``UPDATE_GOLDEN=1 python -m pytest tests/unit/slices/test_build.py`` writes the golden files anew.
"""

import dataclasses
import functools
import itertools
import json
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity

from driver.base.quantity import format_quantity
from driver.hardware.fake import profile
from driver.hardware.model import Cause, Fault, Gpu, Inventory, MigMode, Partition
from driver.health.conditions import Condition
from driver.inventory.attributes import semver
from driver.inventory.catalogue import catalogue
from driver.inventory.options import DeviceOptions, Options, Partitioning, ShareBy, Shares
from driver.inventory.slices import build_slices, slice_name

GOLDEN = Path(__file__).parent / "golden"
DRIVER = "gpu.nvidia.com"
SEMVER = re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)")

GPU = Gpu(
    name="gpu-0",
    uuid="GPU-0",
    index=0,
    minor=0,
    product_name="NVIDIA H100 80GB HBM3",
    brand="Nvidia",
    architecture="Hopper",
    compute_capability="9.0",
    memory_bytes=80 << 30,
    multiprocessors=132,
    pci_bus_id="0000:1b:00.0",
    pcie_root="pci0000:15",
    numa_node=0,
)


def inventory(*gpus: Gpu, driver_version: str = "570.124.06") -> Inventory:
    return Inventory(driver_version=driver_version, cuda_version="12.8", gpus=gpus)


def numbered(count: int) -> tuple[Gpu, ...]:
    return tuple(dataclasses.replace(GPU, name=f"gpu-{i}", uuid=f"GPU-{i}", minor=i, index=i) for i in range(count))


def attributes(gpu: Gpu, **values: Any) -> dict[str, Any]:
    (device,) = build_slices(inventory(dataclasses.replace(gpu, **values)), {}, driver_name=DRIVER)[0]["devices"]
    return device["attributes"]


def documents(slices: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """The slices as the publisher would send them."""
    pool = {"name": "node-1", "generation": 1, "resourceSliceCount": len(slices)}
    return [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": f"{index:05x}-{DRIVER}-node-1"},
            "spec": {"driver": DRIVER, "nodeName": "node-1", "pool": pool, **spec},
        }
        for index, spec in enumerate(slices)
    ]


RESERVE = 512 << 20
MODES = {
    "none": Options(),
    "none-lists": Options(list_attributes=True),
    "none-memory": Options(default=DeviceOptions(shares=Shares(mode=ShareBy.MEMORY, memory_reserve=RESERVE))),
    "static": Options(default=DeviceOptions(partitioning=Partitioning.STATIC)),
    "static-4": Options(
        default=DeviceOptions(
            partitioning=Partitioning.STATIC, shares=Shares(mode=ShareBy.COUNT, count=4, memory_reserve=RESERVE)
        )
    ),
    "dynamic": Options(default=DeviceOptions(partitioning=Partitioning.DYNAMIC)),
    "dynamic-unlimited": Options(
        default=DeviceOptions(
            partitioning=Partitioning.DYNAMIC, shares=Shares(mode=ShareBy.UNLIMITED, memory_reserve=RESERVE)
        )
    ),
}
"""Every kind of partitioning, alone and together with a kind of sharing."""


def cut(gpu: Gpu) -> Gpu:
    """The GPU as an administrator may have cut it: one of each size, as far as there is room, or one that takes all."""
    if gpu.partitions or not gpu.mig_profiles:
        return gpu
    taken: set[int] = set()
    made = []
    wanted = gpu.mig_profiles[-1:] if gpu.index % 2 else gpu.mig_profiles[:-1]
    for facts in wanted:
        for start in sorted(facts.starts, reverse=True):
            span = set(range(start, start + facts.size))
            if not span & taken:
                taken |= span
                ids = {"uuid": f"MIG-{gpu.uuid[4:-2]}{start:02}", "gi_id": len(made) + 1, "ci_id": 0}
                made.append(
                    Partition(
                        gpu_uuid=gpu.uuid,
                        profile=facts.name,
                        profile_id=facts.profile_id,
                        start=start,
                        size=facts.size,
                        **ids,
                    )
                )
                break
    return dataclasses.replace(gpu, mig_mode=MigMode.ENABLED, partitions=tuple(made))


def node_of(name: str, mode: str) -> Inventory:
    found = profile.load_profile(name).inventory()
    if mode.startswith("static"):
        return dataclasses.replace(found, gpus=tuple(map(cut, found.gpus)))
    return found


def build(found: Inventory, mode: str, conditions: Any = None) -> tuple[dict[str, Any], ...]:
    options = MODES[mode]
    return build_slices(
        found,
        conditions or {},
        driver_name=DRIVER,
        devices=catalogue(found, options),
        list_attributes=options.list_attributes,
    )


@functools.cache
def published(name: str, mode: str) -> tuple[dict[str, Any], ...]:
    """All slices of a node on which every GPU is unwell in two ways."""
    found = node_of(name, mode)
    faults = (Fault(cause=Cause.XID, detail="79"), Fault(cause=Cause.ECC, detail="double-bit"))
    conditions = {gpu.uuid: tuple(Condition(fault=fault, since=0) for fault in faults) for gpu in found.gpus}
    return build(found, mode, conditions)


GOLDEN_GPUS = {"none": 8, "static": 2}
each_profile = pytest.mark.parametrize("name", profile.known())
each_mode = pytest.mark.parametrize("mode", MODES)


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, mode) for name in profile.known() for mode in MODES if mode in list(Partitioning) or name == "h100x8"],
)
def test_golden_slices(name: str, mode: str):
    path = GOLDEN / f"{name}.{mode}.yaml"
    found = node_of(name, mode)
    if name != "a30x4":  # elsewhere the GPUs of a node are alike, or two kinds by turns
        found = dataclasses.replace(found, gpus=found.gpus[: GOLDEN_GPUS.get(mode, 1)])
    slices = documents(build(found, mode))

    if os.environ.get("UPDATE_GOLDEN"):
        plain = json.loads(json.dumps(slices))  # without anchors for parts that devices have in common
        path.write_text(yaml.dump_all(plain, sort_keys=False, width=120, default_flow_style=None))

    assert slices == list(yaml.safe_load_all(path.read_text()))


def shape(value: Any) -> Any:
    """What a schema sees of a value: the names in it and the types."""
    if isinstance(value, dict):
        return frozenset((key, shape(part)) for key, part in value.items())
    return frozenset(map(shape, value)) if isinstance(value, list | tuple) else type(value)


@pytest.mark.parametrize("version", ["1.35", "1.36", "1.37"])
def test_every_shape_of_a_device_fits_the_schema_of_the_api(version: str):
    modes = [mode for mode in MODES if mode != "none-lists" or version != "1.35"]  # which has no list attributes
    parts: dict[str, dict[Any, Any]] = {"devices": {}, "sharedCounters": {}}
    for name, mode in itertools.product(profile.known(), modes):
        for spec in published(name, mode):
            for key, known in parts.items():
                known |= {shape(part): part for part in spec.get(key, ())}

    [document] = documents(({key: list(known.values()) for key, known in parts.items()},))

    kubernetes_validate.validate(document, version, strict=True)


@each_profile
@each_mode
def test_all_devices_of_a_type_have_the_same_attributes(name: str, mode: str):
    devices = [device for spec in published(name, mode) for device in spec.get("devices", ())]

    for kind in ("gpu", "mig"):
        found = {frozenset(d["attributes"]) for d in devices if d["attributes"]["type"]["string"] == kind}
        assert len(found) <= 1


@each_profile
@each_mode
def test_no_limit_of_the_api_is_touched(name: str, mode: str):
    slices = published(name, mode)

    sets = [found for spec in slices for found in spec.get("sharedCounters", ())]
    devices = [device for spec in slices for device in spec.get("devices", ())]
    assert len({found["name"] for found in sets}) == len(sets)
    assert len({device["name"] for device in devices}) == len(devices)
    known = {found["name"]: found["counters"] for found in sets}
    for spec in slices:
        assert len({"devices", "sharedCounters"} & set(spec)) == (1 if spec else 0)
        assert len(spec.get("devices", ())) <= 64
        assert len(spec.get("sharedCounters", ())) <= 8
    for counters in known.values():
        assert 1 <= len(counters) <= 32
        assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", counter) for counter in counters)
    for device in devices:
        values = [next(iter(value.values())) for value in device["attributes"].values()]
        assert len(device["attributes"]) + len(device.get("capacity", {})) <= 32
        assert sum(len(value) if isinstance(value, list) else 1 for value in values) <= 48
        assert len(device.get("taints", ())) <= 16
        assert len(device.get("consumesCounters", ())) <= 1
        for entry in device.get("consumesCounters", ()):
            assert set(entry["counters"]) <= set(known[entry["counterSet"]])
        for capacity in device.get("capacity", {}).values():
            assert device.get("allowMultipleAllocations") or "requestPolicy" not in capacity
            check_policy(capacity)


def check_policy(capacity: dict[str, Any]) -> None:
    """The rules of the API server for a requestPolicy."""
    policy = capacity.get("requestPolicy")
    if policy is None:
        return
    value, default = parse_quantity(capacity["value"]), parse_quantity(policy["default"])
    if "validValues" in policy:
        values = [parse_quantity(text) for text in policy["validValues"]]
        assert values == sorted(set(values))
        assert default in values
        assert values[-1] <= value
        return
    if "validRange" not in policy:
        assert policy == {"default": "0"}
        return
    low, high, step = (parse_quantity(policy["validRange"][key]) for key in ("min", "max", "step"))
    assert step >= 1
    assert step == step.to_integral_value()
    assert low <= default <= high <= value
    assert low + step <= value
    assert (default - low) % step == (high - low) % step == 0


def test_counters_come_first_and_eight_sets_to_a_slice():
    slices = build(inventory(*(partitionable(i) for i in range(17))), "dynamic")

    assert [len(spec.get("sharedCounters", ())) for spec in slices] == [8, 8, 1] + [0] * 17
    assert [len(spec.get("devices", ())) for spec in slices] == [0, 0, 0] + [26] * 17


def test_a_gpu_is_in_one_slice_so_that_its_taints_change_one():
    gpus = inventory(*(partitionable(i) for i in range(16)))
    lost = Condition(fault=Fault(cause=Cause.GPU_LOST), since=1_700_000_000)

    before = build(gpus, "dynamic")
    after = build(gpus, "dynamic", {"GPU-7": (lost,)})

    (changed,) = [index for index, spec in enumerate(before) if after[index] != spec]
    tainted = [device["name"] for device in after[changed]["devices"] if "taints" in device]
    assert len(tainted) == 26
    assert all(name.startswith("gpu-7") for name in tainted)


def test_a_node_of_partitions_is_as_small_as_what_it_says():
    slices = build(node_of("h100x8", "dynamic"), "dynamic")

    smallest = named(slices)["gpu-0-mig-1g10gb-19-6"]
    assert json_size(smallest) <= 900  # 837 of it are what NVIDIA's driver says of a partition, and the counter
    assert etcd_size(smallest) <= 655
    assert sum(map(json_size, documents(slices))) <= 202_000
    assert sum(etcd_size(device) for spec in slices for device in spec.get("devices", ())) <= 144_000


@pytest.mark.parametrize(("mode", "most"), [("dynamic", 28_000), ("dynamic-unlimited", 36_000)])
def test_a_taint_on_one_gpu_is_one_small_write(mode: str, most: int):
    found = node_of("h100x8", mode)
    lost = {found.gpus[3].uuid: (Condition(fault=Fault(cause=Cause.GPU_LOST), since=1_700_000_000),)}

    before, after = documents(build(found, mode)), documents(build(found, mode, lost))

    (written,) = [new for old, new in zip(before, after, strict=True) if new != old]
    assert json_size(written) <= most


def json_size(value: Any) -> int:
    """Bytes on the wire."""
    return len(json.dumps(value, separators=(",", ":")))


def etcd_size(device: dict[str, Any]) -> int:
    """Bytes of a device as the API server stores it, by the fields of ``k8s.io/api/resource/v1/generated.proto``."""

    def field(*parts: int) -> int:  # the tag, the length, and what there is
        return 1 + (1 if sum(parts) < 128 else 2) + sum(parts)

    def text(value: str) -> int:
        return field(len(value.encode()))

    def amount(value: dict[str, str]) -> int:
        return field(field(text(value["value"])))

    def attribute(value: dict[str, Any]) -> int:
        return field(2 if "int" in value else text(*value.values()))

    counted = [
        field(text(entry["counterSet"]), *(field(text(name), amount(c)) for name, c in entry["counters"].items()))
        for entry in device.get("consumesCounters", ())
    ]
    return field(
        text(device["name"]),
        *(field(text(name), attribute(value)) for name, value in device["attributes"].items()),
        *(field(text(name), amount(value)) for name, value in device["capacity"].items()),
        *counted,
    )


def partitionable(number: int) -> Gpu:
    facts = profile.load_profile("h100x8").inventory().gpus[0]
    return dataclasses.replace(facts, name=f"gpu-{number}", uuid=f"GPU-{number}", minor=number, index=number)


def named(slices: tuple[dict[str, Any], ...]) -> dict[str, dict[str, Any]]:
    return {device["name"]: device for spec in slices for device in spec.get("devices", ())}


def test_a_partition_says_whose_part_it_is():
    device = named(build(inventory(partitionable(3)), "dynamic"))["gpu-3-mig-1g10gb-me-20-6"]

    assert device["attributes"] == {
        "type": {"string": "mig"},
        "parentUUID": {"string": "GPU-3"},
        "profile": {"string": "1g.10gb+me"},
        "productName": {"string": "NVIDIA H100 80GB HBM3"},
        "brand": {"string": "Nvidia"},
        "architecture": {"string": "Hopper"},
        "cudaComputeCapability": {"version": "9.0.0"},
        "driverVersion": {"version": "570.124.6"},
        "cudaDriverVersion": {"version": "12.8.0"},
        "addressingMode": {"string": "None"},
        "resource.kubernetes.io/pciBusID": {"string": "0000:1b:00.0"},
        "resource.kubernetes.io/pcieRoot": {"string": "pci0000:15"},
        "resource.kubernetes.io/numaNode": {"int": 0},
    }
    assert device["capacity"] == {
        "multiprocessors": {"value": "16"},
        "copyEngines": {"value": "1"},
        "decoders": {"value": "1"},
        "encoders": {"value": "0"},
        "jpegEngines": {"value": "1"},
        "ofaEngines": {"value": "1"},
        "memory": {"value": "9984Mi"},
    }
    assert device["consumesCounters"] == [
        {"counterSet": "gpu-3", "counters": {"media-extensions": {"value": "1"}, "memory-slice-6": {"value": "1"}}}
    ]


def test_a_partition_that_exists_has_its_uuid_and_its_slices_and_no_counters():
    devices = named(build(inventory(cut(partitionable(0))), "static"))

    device = devices["gpu-0-mig-1g20gb-15-2"]
    assert device["attributes"]["uuid"]["string"].startswith("MIG-")
    assert [name for name in device["capacity"] if name.startswith("memorySlice")] == ["memorySlice2", "memorySlice3"]
    assert "consumesCounters" not in device
    assert "gpu-0" not in devices


def test_a_whole_gpu_among_partitions_has_its_real_memory():
    device = named(build(inventory(partitionable(0)), "dynamic"))["gpu-0"]

    assert device["capacity"]["memory"] == {"value": "81559Mi"}
    assert device["capacity"]["multiprocessors"] == {"value": "132"}


def shared_gpu(mode: ShareBy, count: int | None = None, reserve: int = 0) -> dict[str, Any]:
    options = Options(default=DeviceOptions(shares=Shares(mode=mode, count=count, memory_reserve=reserve)))
    found = inventory(GPU)
    (spec,) = build_slices(found, {}, driver_name=DRIVER, devices=catalogue(found, options))
    return spec["devices"][0]


def test_shares_by_memory_go_to_whoever_asks_and_all_of_it_to_who_does_not():
    device = shared_gpu(ShareBy.MEMORY, reserve=1 << 30)

    assert device["allowMultipleAllocations"] is True
    assert device["capacity"] == {
        "memory": {
            "value": "79Gi",
            "requestPolicy": {"default": "79Gi", "validRange": {"min": "1Mi", "max": "79Gi", "step": "1Mi"}},
        }
    }


def test_a_number_of_shares_gives_each_its_part_of_the_memory():
    device = shared_gpu(ShareBy.COUNT, 4)

    assert device["capacity"] == {
        "memory": {
            "value": "80Gi",
            "requestPolicy": {"default": "20Gi", "validRange": {"min": "1Mi", "max": "80Gi", "step": "1Mi"}},
        },
        "shares": {
            "value": "4",
            "requestPolicy": {"default": "1", "validRange": {"min": "1", "max": "4", "step": "1"}},
        },
    }


def test_unlimited_shares_take_no_memory_unless_they_ask():
    device = shared_gpu(ShareBy.UNLIMITED)

    assert device["capacity"]["memory"]["requestPolicy"]["default"] == "0"


def test_one_share_is_the_only_value():
    device = shared_gpu(ShareBy.COUNT, 1)

    assert device["capacity"]["shares"] == {"value": "1", "requestPolicy": {"default": "1", "validValues": ["1"]}}


def test_a_shared_partition_leaves_its_engines_to_all_of_its_claims():
    device = named(build(inventory(partitionable(0)), "dynamic-unlimited"))["gpu-0-mig-1g10gb-19-6"]

    assert {name: value["requestPolicy"]["default"] for name, value in device["capacity"].items()} == dict.fromkeys(
        device["capacity"], "0"
    )
    assert device["consumesCounters"]


def test_lists_are_there_only_where_asked_for():
    found = profile.load_profile("h100x8").inventory()

    plain = named(build(found, "none"))["gpu-0"]["attributes"]
    lists = named(build(found, "none-lists"))["gpu-0"]["attributes"]

    assert plain["resource.kubernetes.io/numaNode"] == {"int": 0}
    assert lists["resource.kubernetes.io/numaNode"] == {"ints": [0]}
    assert lists["resource.kubernetes.io/pcieRoot"] == {"strings": ["pci0000:15"]}
    assert lists["nvlinkPeers"] == {"strings": [f"gpu-{minor}" for minor in range(1, 8)]}
    assert "nvlinkPeers" not in plain


def test_a_numa_node_as_a_list_names_the_nodes_that_are_as_near():
    device = named(build(profile.load_profile("a100x8").inventory(), "none-lists"))["gpu-2"]

    assert device["attributes"]["resource.kubernetes.io/numaNode"] == {"ints": [3, 0, 1, 2]}


def linked(*peers: str) -> Inventory:
    """GPUs by what each reaches over NVLink: "12" are GPU-1 and GPU-2."""
    gpus = (
        dataclasses.replace(gpu, nvlink_peers=tuple(f"GPU-{n}" for n in p))
        for gpu, p in zip(numbered(len(peers)), peers, strict=True)
    )
    return inventory(*gpus)


@pytest.mark.parametrize(
    ("peers", "groups"),
    [
        pytest.param(("", "", ""), (None, None, None), id="no NVLink"),
        pytest.param(("12", "02", "01"), (0, 0, 0), id="one switch"),
        pytest.param(("1", "0", "3", "2"), (0, 0, 1, 1), id="bridges"),
        pytest.param(("1", "02", "1"), (0, 0, None), id="a chain"),
        pytest.param(("1", "", "3", "2"), (None, None, 0, 0), id="only one of two says so"),
        pytest.param(
            ("1234", "0235", "0136", "0127", "5670", "4671", "4572", "4563"), (0,) * 4 + (1,) * 4, id="a cube"
        ),
    ],
)
def test_gpus_that_reach_each_other_over_nvlink_have_a_number_in_common(peers, groups):
    devices = named(build(linked(*peers), "none"))

    found = [devices[f"gpu-{n}"]["attributes"].get("nvlinkGroup", {}).get("int") for n in range(len(peers))]
    assert found == list(groups)


def test_gpus_of_one_fabric_say_so():
    device = named(build(profile.load_profile("gb200x4").inventory(), "none"))["gpu-0"]

    assert device["attributes"]["fabricClique"] == {"string": "8f3f3bb4-6f2e-4a57-9c0e-2f1d7c7f0b1a.1"}


def test_attributes_are_those_of_nvidias_driver_and_the_standard_ones():
    assert attributes(GPU, addressing_mode="HMM", minor=3) == {
        "type": {"string": "gpu"},
        "uuid": {"string": "GPU-0"},
        "productName": {"string": "NVIDIA H100 80GB HBM3"},
        "brand": {"string": "Nvidia"},
        "architecture": {"string": "Hopper"},
        "cudaComputeCapability": {"version": "9.0.0"},
        "driverVersion": {"version": "570.124.6"},
        "cudaDriverVersion": {"version": "12.8.0"},
        "addressingMode": {"string": "HMM"},
        "index": {"int": 0},
        "minor": {"int": 3},
        "resource.kubernetes.io/pciBusID": {"string": "0000:1b:00.0"},
        "resource.kubernetes.io/pcieRoot": {"string": "pci0000:15"},
        "resource.kubernetes.io/numaNode": {"int": 0},
    }


@pytest.mark.parametrize(
    ("field", "attribute"),
    [
        ("brand", "brand"),
        ("architecture", "architecture"),
        ("compute_capability", "cudaComputeCapability"),
        ("addressing_mode", "addressingMode"),
        ("pci_bus_id", "resource.kubernetes.io/pciBusID"),
        ("pcie_root", "resource.kubernetes.io/pcieRoot"),
        ("numa_node", "resource.kubernetes.io/numaNode"),
    ],
)
def test_what_is_not_known_is_left_out(field: str, attribute: str):
    assert attribute not in attributes(GPU, **{field: None})


def test_memory_is_exact():
    (spec,) = build_slices(inventory(dataclasses.replace(GPU, memory_bytes=81559 << 20)), {}, driver_name=DRIVER)

    assert spec["devices"][0]["capacity"] == {"memory": {"value": "81559Mi"}}


def test_unknown_memory_is_no_capacity():
    (spec,) = build_slices(inventory(dataclasses.replace(GPU, memory_bytes=None)), {}, driver_name=DRIVER)

    assert "capacity" not in spec["devices"][0]


def test_long_strings_are_cut_between_characters():
    assert attributes(GPU, product_name="ü" * 40)["productName"] == {"string": "ü" * 32}


def test_a_node_without_gpus_has_one_slice_without_devices():
    assert build_slices(inventory(), {}, driver_name=DRIVER) == ({},)


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (32, [32]), (33, [32, 1]), (70, [32, 32, 6])])
def test_whole_gpus_are_32_to_a_slice(count: int, sizes: list[int]):
    slices = build_slices(inventory(*numbered(count)), {}, driver_name=DRIVER)

    assert [len(spec["devices"]) for spec in slices] == sizes


def test_devices_keep_the_order_of_the_inventory():
    gpus = tuple(reversed(numbered(12)))

    (spec,) = build_slices(inventory(*gpus), {}, driver_name=DRIVER)

    assert [device["name"] for device in spec["devices"]] == [gpu.name for gpu in gpus]


def test_a_taint_changes_nothing_but_its_device():
    gpus = inventory(*numbered(65))
    condition = Condition(fault=Fault(cause=Cause.GPU_LOST), since=1_700_000_000)

    before = build_slices(gpus, {}, driver_name=DRIVER)
    after = build_slices(gpus, {"GPU-3": (condition,)}, driver_name=DRIVER)

    taints = after[0]["devices"][3].pop("taints")
    assert after == before
    assert taints == [
        {"key": "gpu.nvidia.com/gpu-lost", "effect": "NoExecute", "timeAdded": "2023-11-14T22:13:20Z"},
    ]


@pytest.mark.parametrize(
    ("reported", "version"),
    [
        ("535.104.05", "535.104.5"),
        ("550.54.15", "550.54.15"),
        ("12.4", "12.4.0"),
        ("9", "9.0.0"),
        ("v1.2.3", "1.2.3"),
        ("0010.00.000", "10.0.0"),
        ("545.29.06.01", "545.29.6"),
        ("550.54.15-grid", "550.54.15"),
        ("550.54.15+k1 build", "550.54.15"),
        (" 12.8 ", "12.8.0"),
        ("", None),
        (None, None),
        ("unknown", None),
        ("12.x", "12.0.0"),
        ("12x", None),
        ("1234567890123.0", None),
        ("١٢.٣", None),
    ],
)
def test_versions(reported: str | None, version: str | None):
    assert semver(reported) == version


@given(st.one_of(st.text(), st.from_regex(r"v?[0-9]{1,5}(\.[0-9]{1,5}){0,4}([-+ ].*)?", fullmatch=True)))
def test_versions_are_strictly_semver_or_nothing(text: str):
    version = semver(text)

    assert version is None or (SEMVER.fullmatch(version) and len(version) <= 64)


@given(st.integers(0, 9999), st.integers(0, 9999), st.integers(0, 9999))
def test_a_version_keeps_its_numbers(major: int, minor: int, patch: int):
    assert semver(f"{major:03}.{minor:02}.{patch:02}") == f"{major}.{minor}.{patch}"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (1, "1"),
        (1000, "1k"),
        (1024, "1Ki"),
        (1500, "1500"),
        (80 << 30, "80Gi"),
        (81559 << 20, "81559Mi"),
        ((1 << 30) + 1, "1073741825"),
        (1024000, "1000Ki"),
        (1 << 60, "1Ei"),
        (1 << 70, "1024Ei"),
    ],
)
def test_quantities_are_canonical(number: int, text: str):
    assert format_quantity(number) == text


@given(st.integers(0, 2**63 - 1))
def test_quantities_are_exact(number: int):
    assert parse_quantity(format_quantity(number)) == Decimal(number)


odd_text = st.text(max_size=100) | st.none()
odd_gpus = st.builds(
    Gpu,
    name=st.from_regex(r"gpu-[0-9]{1,3}", fullmatch=True) | st.text(max_size=80),
    uuid=st.sampled_from(["GPU-1", "GPU-2"]) | st.text(max_size=100),
    index=st.integers(0, 1000),
    minor=st.integers(0, 255),
    product_name=st.text(max_size=200),
    brand=odd_text,
    architecture=odd_text,
    compute_capability=odd_text,
    memory_bytes=st.none() | st.integers(0, 2**50),
    multiprocessors=st.none(),
    pci_bus_id=odd_text,
    pcie_root=odd_text,
    numa_node=st.none() | st.integers(0, 64),
    addressing_mode=odd_text,
)
odd_conditions = st.dictionaries(
    st.sampled_from(["GPU-1", "GPU-2"]),
    st.lists(
        st.builds(
            Condition,
            fault=st.builds(Fault, cause=st.sampled_from(Cause), detail=st.text(max_size=100)),
            since=st.integers(0, 2**32),
        ),
        max_size=20,
    ).map(tuple),
)
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


@given(st.lists(odd_gpus, max_size=80), odd_conditions, st.text(max_size=60))
def test_limits_of_the_api_hold_for_whatever_the_hardware_says(gpus, conditions, driver_version):
    slices = build_slices(inventory(*gpus, driver_version=driver_version), conditions, driver_name=DRIVER)

    assert len(slices) >= 1
    names = [device["name"] for spec in slices for device in spec.get("devices", ())]
    assert len(names) == len(set(names))
    for spec in slices:
        assert spec == {} or 1 <= len(spec["devices"]) <= 64
        for device in spec.get("devices", ()):
            assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", device["name"])
            assert len(device["attributes"]) + len(device.get("capacity", {})) <= 32
            for name, attribute in device["attributes"].items():
                assert re.fullmatch(r"([a-z.]{1,63}/)?[A-Za-z_][A-Za-z0-9_]{0,31}", name)
                ((kind, value),) = attribute.items()
                assert kind in {"string", "version", "int"}
                assert kind == "int" or len(value.encode()) <= 64
                assert kind != "version" or SEMVER.fullmatch(value)
            assert len(device.get("taints", ())) <= 16
            for taint in device.get("taints", ()):
                assert LABEL_VALUE.fullmatch(taint.get("value", ""))
                assert taint["effect"] in {"None", "NoSchedule", "NoExecute"}


def test_a_slice_is_named_by_index_driver_and_node():
    assert slice_name(10, driver_name="gpu.nvidia.com", node_name="worker-1") == "0000a-gpu.nvidia.com-worker-1"
    longest = "n" * (253 - len("0000a-gpu.nvidia.com-"))
    assert slice_name(10, driver_name="gpu.nvidia.com", node_name=longest) == f"0000a-gpu.nvidia.com-{longest}"


@pytest.mark.parametrize("end", ["", ".x", "-" * 20 + "x"])
def test_nodes_that_differ_only_where_a_name_is_cut_have_slices_of_their_own(end: str):
    nodes = ["n" * (232 - len(end)) + end + letter for letter in "abc"]

    names = [slice_name(0, driver_name="gpu.nvidia.com", node_name=node) for node in nodes]

    assert len(set(names)) == 3
    assert all(re.fullmatch(r"00000-gpu\.nvidia\.com-n+(\.x|-+x)?[a-z0-9]*-[0-9a-f]{10}", name) for name in names)
    assert all(len(name) <= 253 for name in names)
