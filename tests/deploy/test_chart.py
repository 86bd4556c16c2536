"""The chart: linted and rendered by both helms, for each version of Kubernetes, in each mode."""

from __future__ import annotations

import json
import re

import kubernetes_validate
import pytest
import yaml

from tests.deploy.helm import (
    CHART,
    EVERYTHING,
    FAKE,
    HELMS,
    KUBERNETES,
    MODES,
    NAMESPACE,
    NVML,
    ROOT,
    HelmError,
    Object,
    container,
    one,
    render,
    run,
)
from tests.deploy.manifests import SCHEMA, manifests, parameter_files, schema

EXAMPLES = ROOT / "deploy" / "examples"
# Of the Prometheus operator and of the vertical autoscaler, whose definitions are not Kubernetes' own.
FOREIGN = ("monitoring.coreos.com/v1", "autoscaling.k8s.io/v1", "resource.nvidia.com/v1beta1")
# Kinds that younger versions have and older ones do not.
SINCE = {("resource.k8s.io/v1", "DeviceTaintRule"): "1.37"}


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("mode", MODES)
def test_helm_lint_has_nothing_to_say(helm: str, mode: str) -> None:
    run(helm, "lint", "--strict", str(CHART), "--kube-version", "1.36.0", "--values", "-", text=json.dumps(MODES[mode]))


@pytest.mark.parametrize("mode", MODES)
def test_both_helms_make_the_same_objects(mode: str) -> None:
    assert render(MODES[mode], helm="helm3") == render(MODES[mode], helm="helm4")


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("mode", MODES)
def test_each_object_fits_the_schema_of_kubernetes(mode: str, kubernetes: str) -> None:
    for obj in render(MODES[mode], kubernetes=kubernetes):
        valid(obj, kubernetes)


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_each_plain_manifest_and_example_fits_the_schema_of_kubernetes(kubernetes: str) -> None:
    for text in manifests().values():
        for obj in yaml.safe_load_all(text):
            valid(obj, kubernetes)
    for path in EXAMPLES.glob("*.yaml"):
        text = path.read_text()
        needs = re.search(r"^# Needs: Kubernetes (1\.\d+)", text, re.MULTILINE)
        if needs is None or kubernetes >= needs[1]:
            for obj in yaml.safe_load_all(text):
                valid(obj, kubernetes)


@pytest.mark.parametrize(
    ("example", "values"),
    [
        ("27-mig-resource", {"mig": {"profiles": ["1g.10gb"]}}),
        ("28-shared-resource", {"shared": {"extendedResourceName": "nvidia.com/gpu.shared"}}),
        (
            "29-mps-resource",
            {"mps": {"name": "mps.gpu.nvidia.com", "extendedResourceName": "nvidia.com/gpu.mps"}},
        ),
    ],
)
def test_the_class_of_an_example_is_what_the_chart_makes_of_the_values_that_it_names(
    example: str, values: Object
) -> None:
    [wanted] = [obj for obj in objects_of(example) if obj["kind"] == "DeviceClass"]

    assert classes({"shares": 4, "deviceClasses": values})[wanted["metadata"]["name"]] == wanted["spec"]


@pytest.mark.parametrize("helm", HELMS)
def test_an_older_kubernetes_is_refused(helm: str) -> None:
    with pytest.raises(HelmError, match=r"requires kubeVersion: >=1\.35\.0-0"):
        render({}, helm=helm, kubernetes="1.34")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"driverNam": "x"}, "driverNam"),
        ({"image": {"repo": "x"}}, "repo"),
        ({"devices": "real"}, "/devices"),
        ({"partitioning": "some"}, "/partitioning"),
        ({"shares": 0}, "/shares"),
        ({"shares": "few"}, "/shares"),
        ({"sharesMemoryReserve": "a lot"}, "/sharesMemoryReserve"),
        ({"driverName": "GPU"}, "/driverName"),
        ({"healthPort": 70000}, "/healthPort"),
        ({"logLevel": "loud"}, "/logLevel"),
        ({"deviceStatus": "yes"}, "/deviceStatus"),
        ({"kubelet": {"rootDir": "var/lib/kubelet"}}, "/kubelet/rootDir"),
        ({"cdi": {"root": "/var/../etc"}}, "/cdi/root"),
        ({"nodeConfig": {"gpu": []}}, "/nodeConfig"),
        ({"nodeConfig": {"taints": {"xid": {"degraded": "Evict"}}}}, "/nodeConfig/taints/xid/degraded"),
        ({"nodeConfig": {"xids": {"unusable": "nvlink"}}}, "/nodeConfig/xids/unusable"),
        ({"resources": {"requests": {"cpu": 1}}}, "requests"),
        ({"resources": {"limits": {"cpu": "lots"}}}, "/resources/limits/cpu"),
        ({"updateStrategy": {"maxUnavailable": 1}}, "maxUnavailable has to be 0"),
        ({"updateStrategy": {"maxSurge": 0}}, "nothing would ever be upgraded"),
        ({"hostNetwork": True}, "same ports"),
        ({"userNamespace": True}, "fake mode only"),
        ({"httpPort": 0, "metrics": {"podMonitor": {"enabled": True}}}, "nothing to scrape"),
        ({"priorityClassName": "", "resourceQuota": {"enabled": True}}, "without a priorityClassName"),
        ({"metrics": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}}, "twice"),
        ({"deviceClasses": {"mig": {"profiles": ["small"]}}}, "/deviceClasses/mig/profiles/0"),
        (
            {"deviceClasses": {"mig": {"extendedResourceName": "nvidia.com/gpu"}}},
            "gpu.nvidia.com and mig.nvidia.com have the same extendedResourceName nvidia.com/gpu",
        ),
        (
            {"deviceClasses": {"extra": {"h100.gpu.nvidia.com": {"extendedResourceName": "nvidia.com/gpu"}}}},
            "gpu.nvidia.com and h100.gpu.nvidia.com have the same extendedResourceName nvidia.com/gpu",
        ),
        ({"kubelet": {"rootDir": "/" + "a" * 50}, "driverName": "b" * 30}, "would have 117 bytes, 107 fit"),
        ({"kubelet": {"pluginsDir": "/" + "a" * 74}}, "would have 108 bytes, 107 fit"),
        ({"kubelet": {"registryDir": "/" + "a" * 74}}, "would have 108 bytes, 107 fit"),
    ],
)
@pytest.mark.parametrize("helm", HELMS)
def test_a_wrong_value_is_refused_by_name(helm: str, values: Object, problem: str) -> None:
    with pytest.raises(HelmError, match=re.escape(problem)):
        render(values, helm=helm)


@pytest.mark.parametrize("helm", HELMS)
def test_values_of_an_older_chart_are_refused_where_they_lack_a_new_one(helm: str) -> None:
    with pytest.raises(HelmError, match="unreadPatience"):
        render({"unreadPatience": None}, helm=helm)


def test_each_value_has_a_comment_and_a_place_in_the_schema() -> None:
    values_schema = json.loads(SCHEMA.read_text())
    lines = (CHART / "values.yaml").read_text().splitlines()
    documented, path = set(), []
    for number, line in enumerate(lines):
        if match := re.match(r"( *)([A-Za-z]+):", line):
            path = [*path[: len(match[1]) // 2], match[2]]
            above = number - 1
            while lines[above].lstrip().startswith("# ") and not lines[above].lstrip().startswith("# --"):
                above -= 1
            if lines[above].lstrip().startswith("# -- "):
                documented.add(tuple(path))

    wanted = leaves(values_schema, ())

    undocumented = {path for path in wanted if not any(path[: len(known)] == known for known in documented)}
    assert undocumented == {("global",)}
    assert leaves_of_values(yaml.safe_load("\n".join(lines)), values_schema) <= wanted


def test_the_schema_of_the_node_config_is_the_drivers_own() -> None:
    assert SCHEMA.read_text() == schema(), "run `make manifests`"


def test_schemas_and_policy_of_the_parameters_are_the_drivers_own() -> None:
    stale = [str(path) for path, text in parameter_files().items() if path.read_text() != text]

    assert not stale, "run `make manifests`"


@pytest.mark.parametrize(("value", "actions"), [("Deny", ["Deny"]), ("Audit", ["Warn", "Audit"]), ("Off", None)])
def test_parameters_are_refused_warned_of_or_left_to_the_node(value: str, actions: list[str] | None) -> None:
    objects = render({"admissionPolicy": {"parameters": value}, "driverName": "gpu.example.com"})

    policies = [obj for obj in objects if obj["metadata"]["name"].endswith("-parameters")]
    found = {obj["kind"]: obj["spec"] for obj in policies}
    assert found.get("ValidatingAdmissionPolicyBinding", {}).get("validationActions") == actions
    if actions:
        assert "c.opaque.driver == 'gpu.example.com'" in json.dumps(found["ValidatingAdmissionPolicy"])
        assert "$" not in json.dumps(found["ValidatingAdmissionPolicy"]).replace("?)$'", "")


def test_the_charts_version_is_the_packages() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert (chart["version"], chart["appVersion"]) == (version[1], version[1])


def test_the_plain_manifests_and_the_classes_of_the_examples_are_those_of_the_chart() -> None:
    stale = [str(path) for path, text in manifests().items() if not path.exists() or path.read_text() != text]

    assert not stale, "run `make manifests`"


@pytest.mark.parametrize("values", [NVML, FAKE, EVERYTHING], ids=["nvml", "fake", "everything"])
def test_objects_lie_in_the_releases_namespace_or_in_none(values: Object) -> None:
    namespaces = {(obj["kind"], obj["metadata"].get("namespace", "")) for obj in render(values)}

    # Events about nodes are in "default".
    elsewhere = {kind for kind, namespace in namespaces if namespace not in {"", NAMESPACE}}
    assert elsewhere == {"Role", "RoleBinding"}


def test_monitors_alerts_dashboards_and_autoscaling_are_off_unless_asked_for() -> None:
    objects = render(NVML) + render(FAKE)

    assert all(obj["apiVersion"] not in FOREIGN and "dashboard" not in obj["metadata"]["name"] for obj in objects)


def test_scrapes_find_the_port_of_the_pod() -> None:
    ports = {port["name"]: port["containerPort"] for port in container({"httpPort": 9999})["ports"]}

    [endpoint] = one(render(EVERYTHING), "PodMonitor")["spec"]["podMetricsEndpoints"]

    assert ports[endpoint["port"]] == 9999
    service = one(render(MODES["service-monitor"]), "Service")
    monitor = one(render(MODES["service-monitor"]), "ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]


def test_classes_follow_the_drivers_name_and_leave_out_what_has_none() -> None:
    objects = render({"driverName": "gpu.example.com", "deviceClasses": {"mig": {"name": ""}}})

    [only] = [obj for obj in objects if obj["kind"] == "DeviceClass"]

    assert "device.attributes['gpu.example.com'].type == 'gpu'" in only["spec"]["selectors"][0]["cel"]["expression"]


@pytest.mark.parametrize(
    ("values", "shared"),
    [
        ({"shares": 4}, True),
        ({"nodeConfig": {"shares": "memory"}}, True),
        ({"nodeConfig": {"gpus": [{"match": {"name": "gpu-0"}, "shares": 2}]}}, True),
        ({"nodeConfig": {"shares": "disabled"}}, False),
        ({}, False),
    ],
)
def test_the_class_of_shared_devices_comes_with_shares(values: Object, shared: bool) -> None:
    assert classes(values).keys() == {"gpu.nvidia.com", "mig.nvidia.com"} | (
        {"shared.gpu.nvidia.com"} if shared else set()
    )


def objects_of(example: str) -> list[Object]:
    return list(yaml.safe_load_all((EXAMPLES / f"{example}.yaml").read_text()))


def classes(values: Object) -> dict[str, Object]:
    """The specs of the DeviceClasses, by name."""
    return {obj["metadata"]["name"]: obj["spec"] for obj in render(values) if obj["kind"] == "DeviceClass"}


def expression(device_class: Object) -> str:
    [selector] = device_class["selectors"]
    return str(selector["cel"]["expression"])


def test_each_profile_has_a_class_with_the_resource_that_the_device_plugin_has_for_it() -> None:
    found = classes({"deviceClasses": {"mig": {"profiles": ["1g.10gb", "1g.10gb+me"]}}})

    assert found["1g.10gb.mig.nvidia.com"]["extendedResourceName"] == "nvidia.com/mig-1g.10gb"
    assert expression(found["1g.10gb.mig.nvidia.com"]).endswith(".profile == '1g.10gb'")
    assert found["1g.10gb.me.mig.nvidia.com"]["extendedResourceName"] == "nvidia.com/mig-1g.10gb.me"
    assert expression(found["1g.10gb.me.mig.nvidia.com"]).endswith(".profile == '1g.10gb+me'")


def test_partitions_and_shares_are_extended_resources_under_the_names_that_are_asked_for() -> None:
    found = classes(
        {
            "shares": 4,
            "deviceClasses": {
                "gpu": {"extendedResourceName": ""},
                "mig": {"extendedResourceName": "nvidia.com/gpu"},
                "shared": {"extendedResourceName": "nvidia.com/gpu.shared"},
            },
        }
    )

    assert {name: spec.get("extendedResourceName") for name, spec in found.items()} == {
        "gpu.nvidia.com": None,
        "mig.nvidia.com": "nvidia.com/gpu",
        "shared.gpu.nvidia.com": "nvidia.com/gpu.shared",
    }


def test_the_class_of_shares_through_mps_says_so_to_the_driver() -> None:
    mps = {"name": "mps.gpu.nvidia.com", "extendedResourceName": "nvidia.com/gpu.shared"}

    found = classes({"shares": 4, "driverName": "gpu.example.com", "deviceClasses": {"mps": mps}})["mps.gpu.nvidia.com"]

    assert found["extendedResourceName"] == "nvidia.com/gpu.shared"
    [config] = found["config"]
    assert config["opaque"]["driver"] == "gpu.example.com"
    assert config["opaque"]["parameters"]["sharing"] == {"strategy": "MPS"}


@pytest.mark.parametrize(("resource", "whole"), [("", False), ("nvidia.com/gpu.shared", True)])
def test_a_share_that_pods_ask_for_as_a_resource_is_one_of_a_whole_gpu(resource: str, whole: bool) -> None:
    found = classes({"shares": 4, "deviceClasses": {"shared": {"extendedResourceName": resource}}})

    assert (".type == 'gpu'" in expression(found["shared.gpu.nvidia.com"])) is whole


@pytest.mark.parametrize(("shares", "excluded"), [(4, True), ("disabled", False)])
def test_whole_gpus_can_be_kept_apart_from_shared_ones_where_there_are_any(shares: object, excluded: bool) -> None:
    found = classes({"shares": shares, "deviceClasses": {"gpu": {"exclusive": True}}})

    # Without the feature gate the field is no CEL: so it is there only where something is shared.
    assert expression(found["gpu.nvidia.com"]).endswith("!device.allowMultipleAllocations") is excluded


def test_a_digest_counts_more_than_a_tag() -> None:
    digest = f"sha256:{'0' * 64}"

    image = container({"image": {"repository": "r.example.com/gpu-dra", "tag": "1", "digest": digest}})["image"]

    assert image == f"r.example.com/gpu-dra@{digest}"


def valid(obj: Object, kubernetes: str) -> None:
    if obj["apiVersion"] not in FOREIGN and kubernetes >= SINCE.get((obj["apiVersion"], obj["kind"]), ""):
        kubernetes_validate.validate(obj, kubernetes, strict=True)


def leaves(schema: Object, path: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Paths of the values that the schema has; a map of the user's own is one value."""
    properties = schema.get("properties")
    if not properties or path == ("nodeConfig",):
        return {path}
    return set().union(*(leaves(part, (*path, key)) for key, part in properties.items()))


def leaves_of_values(values: Object, schema: Object, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    known = leaves(schema, ())
    found: set[tuple[str, ...]] = set()
    for key, value in values.items():
        here = (*path, key)
        found |= {here} if here in known or not isinstance(value, dict) else leaves_of_values(value, schema, here)
    return found
