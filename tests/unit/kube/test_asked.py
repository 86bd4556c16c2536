from __future__ import annotations

import pytest

from driver.kube import verb_and_resource

SLICES = "/apis/resource.k8s.io/v1/resourceslices"
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", f"{SLICES}?fieldSelector=spec.nodeName%3Da", ("list", "resourceslices")),
        ("GET", f"{SLICES}?watch=true&timeoutSeconds=300", ("watch", "resourceslices")),
        ("PUT", f"{SLICES}/00000-a", ("update", "resourceslices")),
        ("GET", f"{CLAIMS}/watch=true", ("get", "resourceclaims")),
        ("PATCH", f"{CLAIMS}/a/status?fieldManager=b", ("patch", "resourceclaims/status")),
        ("GET", "/api/v1/nodes/a", ("get", "nodes")),
        ("GET", "/api/v1/namespaces/default", ("get", "namespaces")),
        ("POST", "/api/v1/namespaces/default/events", ("create", "events")),
        ("DELETE", f"{SLICES}/00000-a", ("delete", "resourceslices")),
        ("GET", "/version", ("get", "")),
    ],
)
def test_a_request_has_the_verb_and_the_resource_of_its_permission(
    method: str, path: str, expected: tuple[str, str]
) -> None:
    assert verb_and_resource(method, path) == expected
