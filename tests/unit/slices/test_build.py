"""What we publish.

``UPDATE_GOLDEN=1 python -m pytest tests/unit/slices/test_build.py`` writes the golden files anew.
"""

import dataclasses
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

from driver.devices import profile
from driver.devices.model import Cause, Fault, Gpu, Inventory
from driver.health.conditions import Condition
from driver.slices.build import build_slices, quantity, semver

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


@pytest.mark.parametrize("name", profile.known())
def test_golden_slices(name: str):
    path = GOLDEN / f"{name}.yaml"
    slices = documents(build_slices(profile.load(name).inventory(), {}, driver_name=DRIVER))

    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(yaml.dump_all(slices, sort_keys=False, width=120))

    assert slices == list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("version", ["1.35", "1.36", "1.37"])
@pytest.mark.parametrize("name", profile.known())
def test_slices_fit_the_schema_of_the_api(name: str, version: str):
    conditions = {
        gpu.uuid: (Condition(fault=Fault(cause=Cause.XID, detail="79"), since=0),)
        for gpu in profile.load(name).inventory().gpus
    }

    for document in documents(build_slices(profile.load(name).inventory(), conditions, driver_name=DRIVER)):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("name", profile.known())
def test_all_devices_of_a_profile_have_the_same_attributes(name: str):
    slices = build_slices(profile.load(name).inventory(), {}, driver_name=DRIVER)

    assert len({frozenset(device["attributes"]) for spec in slices for device in spec["devices"]}) == 1


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


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (64, [64]), (65, [64, 1]), (130, [64, 64, 2])])
def test_slices_have_at_most_64_devices(count: int, sizes: list[int]):
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
    assert quantity(number) == text


@given(st.integers(0, 2**63 - 1))
def test_quantities_are_exact(number: int):
    assert parse_quantity(quantity(number)) == Decimal(number)


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
