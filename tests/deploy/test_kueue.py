"""The example for Kueue: it speaks of the chart's classes, and counts what the driver publishes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from driver.base.quantity import parse_quantity
from driver.cli.main import cli
from driver.sim.apiserver import ApiServer
from driver.sim.apiserver.access import ADMIN
from driver.sim.apiserver.call import Call
from driver.sim.apiserver.resources import BY_PATH
from driver.sim.scheduler.cel import selector
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
BY_MEMORY = [name for name, mapping in MAPPINGS.items() if "sources" in mapping]


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


def published() -> list[Object]:
    command = ["slices", "--template", "--node-name", "node-1", "--devices", "fake:h100x8", "--partitioning", "dynamic"]
    found = yaml.safe_load_all(CliRunner().invoke(cli, command).stdout)
    return [device for document in found for device in document["spec"].get("devices", ())]


def test_every_class_of_the_chart_has_a_quota():
    mapped = [name for mapping in MAPPINGS.values() for name in mapping["deviceClassNames"]]

    assert sorted(mapped) == sorted(CLASSES)
    assert set(resources()) == {"cpu", "memory", *MAPPINGS}


def test_pods_that_ask_for_the_extended_resource_share_the_quota_of_claims():
    mapped = {name: mapping["deviceClassNames"] for name, mapping in MAPPINGS.items()}

    for name, spec in CLASSES.items():
        if "extendedResourceName" in spec:
            assert name in mapped[spec["extendedResourceName"]]


@pytest.mark.parametrize("name", BY_MEMORY)
def test_a_counter_is_one_that_each_device_of_its_class_consumes(name: str):
    mapping = MAPPINGS[name]
    [source] = mapping["sources"]
    counter = source["counter"]
    wanted = selector(counter["deviceSelector"]["cel"]["expression"])
    of_class = [selector(s["cel"]["expression"]) for n in mapping["deviceClassNames"] for s in CLASSES[n]["selectors"]]

    found = [device for device in published() if wanted.matches(counter["driver"], device)]

    assert found == [d for d in published() if all(s.matches(counter["driver"], d) for s in of_class)]
    assert all(counter["name"] in used["counters"] for device in found for used in device["consumesCounters"])
    # What is not counted by number has to have a quota in the counter's unit.
    largest = max(parse_quantity(d["consumesCounters"][0]["counters"][counter["name"]]["value"]) for d in found)
    assert parse_quantity(resources()[name]) >= largest


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
