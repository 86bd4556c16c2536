"""The API server's policy for opaque parameters says what the node would say, before there is a pod to say it to."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from driver.claims.config import API_VERSION, decode
from driver.sim.apiserver import ApiServer
from driver.sim.apiserver.engine import Call
from driver.sim.apiserver.errors import StatusError
from driver.sim.apiserver.resources import BY_KIND

from .conftest import DRIVER
from .parameters import ACCEPTED, GPU, MIG, REFUSED, SECRET, WITH_SECRETS
from .test_fuzz import PARAMETERS

Object = dict[str, Any]
MANIFEST = Path(__file__).parents[3] / "deploy" / "manifests" / "fake.yaml"
POLICY = "gpu-dra-driver-parameters"
NUMBERS = itertools.count()
REQUESTS = [{"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com"}}]
DENIED = f"ValidatingAdmissionPolicy '{POLICY}' with binding '{POLICY}' denied request: "
ABOUT = f"parameters for driver {DRIVER}: "


@pytest.fixture(scope="module")
def server() -> ApiServer:
    server = ApiServer()
    install_policy(server)
    return server


def install_policy(server: ApiServer) -> None:
    for obj in yaml.safe_load_all(MANIFEST.read_text()):
        if obj["metadata"]["name"] == POLICY:
            server.add(obj)


def config(parameters: Object, *, driver: str = DRIVER) -> Object:
    return {"opaque": {"driver": driver, "parameters": parameters}}


def claim(*configs: Object) -> Object:
    return made("ResourceClaim", {"devices": {"requests": REQUESTS, "config": list(configs)}})


def template(*configs: Object) -> Object:
    return made("ResourceClaimTemplate", {"spec": {"devices": {"requests": REQUESTS, "config": list(configs)}}})


def device_class(*configs: Object) -> Object:
    return made("DeviceClass", {"config": list(configs)})


def made(kind: str, spec: Object) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": f"x-{next(NUMBERS)}"},
        "spec": spec,
    }


def refusal(server: ApiServer, obj: Object) -> str:
    """What the policy says of an object; nothing if it is taken."""
    try:
        server.add(json.loads(json.dumps(obj), parse_int=go_number))
    except StatusError as error:
        return error.message.rpartition(DENIED)[2]
    return ""


def go_number(text: str) -> int | float:
    """A whole number as an API server reads it: one that does not fit into 64 bits is no integer to it."""
    number = int(text)
    return number if -(1 << 63) <= number < 1 << 63 else float(number)


def answer(parameters: Object) -> str:
    """What the node says; nothing if it takes them."""
    try:
        decode(json.loads(json.dumps(parameters)))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("make", [claim, template, device_class])
@pytest.mark.parametrize("parameters", ACCEPTED)
def test_what_the_node_accepts_is_accepted(server: ApiServer, make: Any, parameters: Object) -> None:
    assert refusal(server, make(config(parameters))) == ""


@pytest.mark.parametrize("make", [claim, template, device_class])
@pytest.mark.parametrize("parameters", [parameters for parameters, _ in REFUSED])
def test_what_the_node_refuses_is_refused_and_named_as_the_node_names_it(
    server: ApiServer, make: Any, parameters: Object
) -> None:
    words = refusal(server, make(config(parameters)))

    assert words.startswith(ABOUT)
    where = answer(parameters).partition(" was given")[0].partition(" is ")[0].partition(":")[0]
    assert where in words


@pytest.mark.parametrize("parameters", WITH_SECRETS)
def test_what_was_put_in_by_mistake_is_not_quoted(server: ApiServer, parameters: Object) -> None:
    words = refusal(server, claim(config(parameters)))

    assert words
    assert SECRET not in words


QUANTITIES = st.from_regex(r"[0-9]{1,3}(\.[0-9]{0,3})?([eE][-+]?[0-9]{1,2}|[KMGTPE]i|[numkMGTPE])?", fullmatch=True)
INTERVALS = st.sampled_from(["Long", "", None])
LIMITS = {
    "defaultActiveThreadPercentage": st.integers() | st.integers(0, 100) | st.floats() | st.none(),
    "defaultPinnedDeviceMemoryLimit": QUANTITIES | st.text() | st.none(),
    "defaultPerDevicePinnedMemoryLimit": st.none()
    | st.dictionaries(st.text(max_size=4), QUANTITIES | st.integers(), max_size=3),
    "multiUser": st.booleans() | st.none() | st.text(max_size=4),
}
SHARING = st.fixed_dictionaries(
    {"strategy": st.sampled_from(["MPS", "TimeSlicing"])},
    optional={
        "mpsConfig": st.none() | st.fixed_dictionaries({}, optional=LIMITS),
        "timeSlicingConfig": st.none()
        | st.fixed_dictionaries({}, optional={"interval": st.sampled_from(["Long", ""])}),
    },
)
NEARLY = st.fixed_dictionaries(
    {"apiVersion": st.just(API_VERSION), "kind": st.sampled_from(["GpuConfig", "MigDeviceConfig"])},
    optional={"sharing": SHARING},
)


def limit(value: Any) -> Object:
    return {**GPU, "sharing": {"strategy": "MPS", "mpsConfig": {"defaultPinnedDeviceMemoryLimit": value}}}


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(parameters=PARAMETERS | NEARLY)
@example(limit("1048576"))
@example(limit("1048575"))
@example(limit("1.Pi"))
@example(limit("1E"))
@example(limit("0.0009765625Gi"))
@example(limit("1125899906842624.0000001"))
@example(limit("1125899906842624.0000000000000001"))
@example(limit("1Mi\n"))
@example(limit("+1Gi"))
@example(limit(" 1Gi"))
@example({**GPU, "sharing": {"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": 50.0}}})
@example({**GPU, "sharing": {"strategy": "MPS", "mpsConfig": {"defaultActiveThreadPercentage": True}}})
@example({**MIG, "sharing": None})
def test_node_and_policy_agree_on_anything(server: ApiServer, parameters: Object) -> None:
    assume(finite(parameters) and r"\u0000" not in json.dumps(parameters))  # no JSON; nothing for CEL's C++ runtime

    said, words = answer(parameters), refusal(server, claim(config(parameters)))

    assert bool(words) == bool(said), (words, said)


def finite(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def test_every_problem_of_several_parameters_is_named(server: ApiServer) -> None:
    bad = {**GPU, "sharin": 1, "sharing": {"strategy": "MPS", "mpsConfig": {"multiUser": 1, "x": 1}}}

    words = refusal(server, claim(config(GPU), config(bad), config({**GPU, "kind": "Toaster"})))

    for where in ("GpuConfig.sharin ", "mpsConfig.multiUser was given 1: true or false", "mpsConfig.x", "'Toaster'"):
        assert where in words


def test_parameters_of_other_drivers_are_none_of_its_business(server: ApiServer) -> None:
    assert refusal(server, claim(config({"kind": "Anything"}, driver="net.example.com"), config(GPU))) == ""
    assert refusal(server, made("DeviceClass", {})) == ""
    assert refusal(server, made("ResourceClaim", {"devices": {"requests": REQUESTS}})) == ""


def test_limits_for_more_devices_than_a_claim_has_are_left_to_the_node(server: ApiServer) -> None:
    many = {str(number): "1" for number in range(65)}
    parameters = {**GPU, "sharing": {"strategy": "MPS", "mpsConfig": {"defaultPerDevicePinnedMemoryLimit": many}}}

    assert refusal(server, claim(config(parameters))) == ""
    assert answer(parameters)


def test_an_amount_that_lacks_less_than_a_billionth_of_a_byte_is_left_to_the_node(server: ApiServer) -> None:
    parameters = limit("1048575.9999999999")  # Kubernetes rounds quantities up to nano

    assert refusal(server, claim(config(parameters))) == ""
    assert answer(parameters)


def test_what_a_class_has_had_before_is_no_reason_to_refuse_another_change() -> None:
    server = ApiServer()
    old = device_class(config({**GPU, "sharin": 1}))
    server.add(old)
    install_policy(server)
    call = Call(resource=BY_KIND["resource.k8s.io/v1", "DeviceClass"], namespace="", name=old["metadata"]["name"])

    relabelled = {**old, "metadata": {**old["metadata"], "labels": {"a": "b"}}}
    server.engine.update(call, relabelled)
    with pytest.raises(StatusError, match=r"GpuConfig\.sharon is not a known field"):
        server.engine.update(call, {**old, "spec": {"config": [config({**GPU, "sharon": 1})]}})
    server.engine.update(call, {**old, "spec": {"config": [config(GPU)]}})


def test_fields_without_end_are_counted(server: ApiServer) -> None:
    words = refusal(server, claim(config({**GPU, **{f"{number}": 1 for number in range(500)}})))

    assert words == f"{ABOUT}GpuConfig has 502 fields; accepted: apiVersion, kind, sharing"
