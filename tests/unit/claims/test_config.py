"""Opaque parameters: what is accepted, what is refused and in which words, and which one applies."""

from __future__ import annotations

from typing import Any

import pytest

from driver.claims.allocation import ClaimRef, read_allocation
from driver.claims.config import GpuConfig, MigDeviceConfig, decode, resolve
from driver.claims.errors import ClaimError

from .conftest import DRIVER, claim, result
from .parameters import ACCEPTED, GPU, MIG, REFUSED, SECRET, WITH_SECRETS


def config(parameters: dict[str, Any], *, requests: tuple[str, ...] = (), source: str = "FromClaim") -> dict[str, Any]:
    return {
        "source": source,
        "requests": list(requests),
        "opaque": {"driver": DRIVER, "parameters": parameters},
    }


def resolved(*configs: dict[str, Any], results: Any = None, types: Any = None) -> Any:
    """What applies to each device, by its name, where something does."""
    results = results or [result("gpu-0")]
    obj = claim(*results, config=list(configs))
    ref = ClaimRef("default", "claim", obj["metadata"]["uid"])
    allocation = read_allocation(obj, ref=ref, driver=DRIVER)
    applied = resolve(allocation, types or {r["device"]: "gpu" for r in results}, driver=DRIVER)
    return {r["device"]: one.config for r, one in zip(results, applied, strict=True) if one.config is not None}


@pytest.mark.parametrize("parameters", ACCEPTED)
def test_what_nvidias_users_write_is_accepted(parameters: dict[str, Any]) -> None:
    assert decode(parameters).kind == parameters["kind"]


@pytest.mark.parametrize(("parameters", "words"), REFUSED)
def test_what_is_wrong_is_named_with_what_is_accepted(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as failure:
        decode(parameters)

    assert words in str(failure.value)


@pytest.mark.parametrize("parameters", WITH_SECRETS)
def test_what_was_put_in_by_mistake_is_not_quoted(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as failure:
        decode(parameters)

    assert SECRET not in str(failure.value)


def test_of_many_things_that_are_wrong_some_are_named_and_all_are_counted() -> None:
    with pytest.raises(ValueError) as failure:
        decode({**GPU, **{f"{'x' * 300}-{number}": 1 for number in range(1000)}})

    assert str(failure.value).endswith("; and 995 more")
    assert len(str(failure.value)) < 1500


def test_a_config_without_requests_applies_to_every_device_that_it_fits() -> None:
    results = [result("gpu-0"), result("gpu-1-mig", request="small")]

    applied = resolved(config(GPU), results=results, types={"gpu-0": "gpu", "gpu-1-mig": "mig"})

    assert set(applied) == {"gpu-0"}


def test_a_config_that_names_a_request_must_fit_its_device() -> None:
    with pytest.raises(ClaimError) as failure:
        resolved(config(MIG, requests=("gpu",)))

    assert "gives a MigDeviceConfig to request gpu, but its device gpu-0 is of type 'gpu'" in str(failure.value)


@pytest.mark.parametrize("name", ["gpu", "gpu/big"])
def test_a_config_may_name_the_parent_or_the_subrequest(name: str) -> None:
    applied = resolved(config(GPU, requests=(name,)), results=[result("gpu-0", request="gpu/big")])

    assert isinstance(applied["gpu-0"], GpuConfig)


def test_parameters_for_all_alternatives_that_do_not_fit_the_chosen_one_say_how_to_name_it() -> None:
    with pytest.raises(ClaimError) as failure:
        resolved(config(MIG, requests=("gpu",)), results=[result("gpu-0", request="gpu/big")])

    assert "to request gpu, but its device gpu-0 is of type 'gpu'; gpu/<name> in 'requests'" in str(failure.value)


def test_a_config_for_another_subrequest_does_not_apply() -> None:
    assert resolved(config(GPU, requests=("gpu/small",)), results=[result("gpu-0", request="gpu/big")]) == {}


def test_the_last_config_wins_so_a_claims_over_its_class() -> None:
    first = {**GPU, "sharing": {"strategy": "TimeSlicing"}}

    applied = resolved(config(first, source="FromClass"), config(GPU))

    assert applied["gpu-0"].sharing is None


def test_a_bad_config_says_whether_claim_or_class_has_it() -> None:
    with pytest.raises(ClaimError) as failure:
        resolved(config({**GPU, "x": 1}, source="FromClass"))

    assert "in its DeviceClass of default/claim" in str(failure.value)


def test_parameters_of_other_drivers_are_none_of_our_business() -> None:
    foreign = {"source": "FromClaim", "opaque": {"driver": "net.example.com", "parameters": {"kind": "Anything"}}}

    assert resolved(foreign) == {}


def test_a_partition_takes_its_own_kind() -> None:
    applied = resolved(config(MIG, requests=("gpu",)), types={"gpu-0": "mig"})

    assert isinstance(applied["gpu-0"], MigDeviceConfig)
