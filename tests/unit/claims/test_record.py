"""The record's file: what another version wrote is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from driver.claims.ledger.codec import DamagedRecordError, decode, encode
from driver.claims.ledger.record import State
from driver.inventory.options import DeviceOptions, Partitioning, ShareBy, Shares

RAW: dict[str, Any] = {
    "schema": 1,
    "claim": {"namespace": "default", "name": "claim", "uid": "u-1"},
    "allocation": "a",
    "bootID": "b",
    "driver": "gpu.nvidia.com",
    "state": "prepared",
    "devices": [
        {
            "requests": ["gpu"],
            "pool": "node-1",
            "device": "gpu-0-mig-1g10gb-19-0",
            "cdiDeviceIDs": ["k8s.gpu.nvidia.com/claim=u-1-x"],
            "gpuUUID": "GPU-0",
            "slots": [0],
            "whole": False,
            "placement": {"profile": "1g.10gb", "start": 0},
            "partition": {
                "profile": "1g.10gb",
                "profileID": 19,
                "start": 0,
                "size": 1,
                "uuid": "MIG-0",
                "gi": 7,
                "ci": 0,
            },
            "product": "H100",
            "weight": 0.142857,
            "offered": {"partitioning": "dynamic", "shares": "4", "sharesMemoryReserve": 5},
        }
    ],
    "preparedAt": "2026-01-02T03:04:05.678+00:00",
    "heldSince": 86400.123,
    "pods": [{"name": "trainer", "uid": "p-1"}],
}


def changed(**at: Any) -> dict[str, Any]:
    """RAW with fields by path, ``__`` between the parts."""
    raw = json.loads(json.dumps(RAW))
    for path, value in at.items():
        *parents, last = path.split("__")
        target: Any = raw
        for part in parents:
            target = target[int(part) if part.isdigit() else part]
        target[last] = value
    return raw


def rewritten(raw: dict[str, Any]) -> Any:
    record = decode(json.dumps(raw).encode(), uid="u-1")
    return json.loads(encode(record.with_state(State.UNDOING)))


def test_a_record_reads_back_as_it_was_written() -> None:
    assert json.loads(encode(decode(json.dumps(RAW).encode(), uid="u-1"))) == RAW


@pytest.mark.parametrize(
    "path",
    [
        "new",
        "claim__new",
        "devices__0__new",
        "devices__0__placement__new",
        "devices__0__partition__new",
        "devices__0__offered__new",
    ],
)
def test_fields_of_a_newer_version_are_kept_wherever_they_are(path: str) -> None:
    raw = changed(**{path: {"deep": [1]}})

    assert rewritten(raw) == {**raw, "state": "undoing"}


def test_what_was_kept_of_a_part_goes_with_it() -> None:
    record = decode(json.dumps(changed(devices__0__partition__new=1, devices__0__new=2)).encode(), uid="u-1")
    bare = replace(record, devices=tuple(replace(device, partition=None) for device in record.devices))

    [device] = json.loads(encode(bare))["devices"]

    assert "partition" not in device
    assert device["new"] == 2


def test_how_the_device_was_offered_is_known() -> None:
    [device] = decode(json.dumps(RAW).encode(), uid="u-1").devices

    assert device.offered == DeviceOptions(
        partitioning=Partitioning.DYNAMIC, shares=Shares(mode=ShareBy.COUNT, count=4, memory_reserve=5)
    )


def test_a_way_to_offer_that_only_a_newer_version_knows_is_no_damage() -> None:
    raw = changed(devices__0__offered={"partitioning": "quantum", "shares": "all"})

    assert rewritten(raw)["devices"][0]["offered"] == {"partitioning": "quantum", "shares": "all"}


def test_a_record_without_it_is_one_of_an_older_version() -> None:
    raw = changed()
    del raw["devices"][0]["offered"]

    assert decode(json.dumps(raw).encode(), uid="u-1").devices[0].offered is None


def test_a_record_of_another_claim_is_damaged() -> None:
    with pytest.raises(DamagedRecordError, match="u-1"):
        decode(json.dumps(RAW).encode(), uid="u-2")


@pytest.mark.parametrize("amount", ["x", "", "NaN", "inf", "-1", "1e999999", 7, None])
def test_an_amount_that_cannot_be_computed_with_is_damage(amount: Any) -> None:
    raw = changed(devices__0__shareID="s-1", devices__0__consumed={"memory": amount})

    with pytest.raises(DamagedRecordError):
        decode(json.dumps(raw).encode(), uid="u-1")


def test_a_record_of_a_version_that_noted_no_time_is_one() -> None:
    raw = changed()
    for key in ("heldSince", "pods"):
        del raw[key]
    for key in ("product", "weight"):
        del raw["devices"][0][key]

    record = decode(json.dumps(raw).encode(), uid="u-1")

    assert (record.held_since, record.pods) == (None, ())
    assert (record.devices[0].product, record.devices[0].weight) == ("", None)
    assert rewritten(raw) == {**raw, "state": "undoing"}


@pytest.mark.parametrize("value", [-1, "1", True, 1e400, [1]])
def test_a_time_that_is_none_is_damage(value: Any) -> None:
    with pytest.raises(DamagedRecordError):
        decode(json.dumps(changed(heldSince=value)).encode(), uid="u-1")
