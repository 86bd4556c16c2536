"""The example for Kueue: it counts claims by the chart's classes, and its Jobs are counted."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from driver.sim.apiserver import ApiServer
from driver.sim.apiserver.access import ADMIN
from driver.sim.apiserver.call import Call
from driver.sim.apiserver.resources import BY_PATH
from tests.deploy.helm import CHART, Object

KUEUE = CHART.parent / "kueue"
MAPPINGS: dict[str, Object] = {
    mapping["name"]: mapping
    for mapping in yaml.safe_load((KUEUE / "configuration.yaml").read_text())["resources"]["deviceClassMappings"]
}
OBJECTS: list[Object] = list(yaml.safe_load_all((KUEUE / "queues.yaml").read_text()))
CLASSES: dict[str, Object] = {
    found["metadata"]["name"]: found["spec"]
    for found in yaml.safe_load_all((CHART.parent / "examples" / "00-deviceclasses.yaml").read_text())
    if found
}
"""The classes that the chart makes, see ``make manifests``."""


def of(kind: str) -> dict[str, Object]:
    return {obj["metadata"]["name"]: obj for obj in OBJECTS if obj["kind"] == kind}


def resources() -> dict[str, Any]:
    """What the ClusterQueue has of each resource."""
    [queue] = of("ClusterQueue").values()
    [group] = queue["spec"]["resourceGroups"]
    [flavor] = group["flavors"]
    assert flavor["name"] in of("ResourceFlavor")
    assert [resource["name"] for resource in flavor["resources"]] == group["coveredResources"]
    return {resource["name"]: resource["nominalQuota"] for resource in flavor["resources"]}


def requests(template: str) -> list[Object]:
    spec = of("ResourceClaimTemplate")[template]["spec"]["spec"]
    return [request["exactly"] for request in spec["devices"]["requests"]]


def test_every_class_of_the_chart_has_a_quota():
    mapped = [name for mapping in MAPPINGS.values() for name in mapping["deviceClassNames"]]

    assert sorted(mapped) == sorted(CLASSES)
    assert set(resources()) == {"cpu", "memory", *MAPPINGS}


def test_pods_that_ask_for_the_extended_resource_share_the_quota_of_claims():
    mapped = {name: mapping["deviceClassNames"] for name, mapping in MAPPINGS.items()}

    for name, spec in CLASSES.items():
        if "extendedResourceName" in spec:
            assert name in mapped[spec["extendedResourceName"]]


def test_every_job_is_in_the_queue_and_its_claims_are_counted():
    [queue] = of("LocalQueue").values()
    mapped = {name for mapping in MAPPINGS.values() for name in mapping["deviceClassNames"]}

    assert queue["spec"]["clusterQueue"] in of("ClusterQueue")
    for job in of("Job").values():
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queue["metadata"]["name"]
        assert job["metadata"]["namespace"] == queue["metadata"]["namespace"]
        for claim in job["spec"]["template"]["spec"]["resourceClaims"]:
            assert {request["deviceClassName"] for request in requests(claim["resourceClaimTemplateName"])} <= mapped


@pytest.mark.parametrize(("kind", "group"), [("ResourceClaimTemplate", "resource.k8s.io"), ("Job", "batch")])
def test_what_is_of_kubernetes_is_as_its_schema_says(kind: str, group: str):
    resource = BY_PATH[group, "v1", f"{kind.lower()}s"]
    for name, obj in of(kind).items():
        server = ApiServer()

        created = server.engine.create(Call(resource=resource, namespace="default", name="", user=ADMIN), obj).obj

        assert created["metadata"]["name"] == name
