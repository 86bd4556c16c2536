"""Parameters that no node would take are refused where they are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from driver.kube.client import RESOURCE, ApiError
from tests.unit.claims.parameters import ACCEPTED, REFUSED, WITH_SECRETS

from .site import DRIVER

if TYPE_CHECKING:
    from tests.e2e.site import Site

POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"


async def test_claims_are_refused_for_their_parameters_when_they_are_made(site: Site) -> None:
    policies = [
        policy
        for policy in (await site.api.get(POLICIES))["items"]
        if policy["metadata"]["name"].endswith("-parameters")
    ]
    if not policies:
        pytest.skip("the policy for parameters is switched off")

    assert all(not policy.get("status", {}).get("typeChecking") for policy in policies)
    assert [answer for parameters in ACCEPTED if (answer := await refusal(site, parameters))] == []
    for parameters in (*(parameters for parameters, _ in REFUSED), *WITH_SECRETS):
        assert f"parameters for driver {DRIVER}" in await refusal(site, parameters)


async def refusal(site: Site, parameters: dict[str, Any]) -> str:
    """What the API server says of a claim; nothing if it would take it."""
    requests = [{"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com"}}]
    config = [{"opaque": {"driver": DRIVER, "parameters": parameters}}]
    claim = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": "parameters"},
        "spec": {"devices": {"requests": requests, "config": config}},
    }
    path = f"{RESOURCE}/namespaces/{site.namespace}/resourceclaims"
    try:
        await site.api.request("POST", path, body=claim, params={"dryRun": "All"})
    except ApiError as error:
        return str(error)
    return ""
