"""The pods: upgrades without a gap, the last to go, and no privilege without a need."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from driver.cli.flags import variable
from driver.kubelet.serving import GRACE, LINGER
from driver.node.settings import Settings
from tests.deploy.helm import FAKE, MODES, NVML, Object, container, one, pod_spec, render

# Setting -> values that reach it, and what the driver then gets. A dictionary in place of text is where it comes from.
REACHED: dict[str, tuple[Object, Any]] = {
    "node_name": ({}, {"fieldRef": {"fieldPath": "spec.nodeName"}}),
    "pod_uid": ({}, {"fieldRef": {"fieldPath": "metadata.uid"}}),
    "driver_name": ({"driverName": "gpu.example.com"}, "gpu.example.com"),
    "kubeconfig": ({"kubeconfig": {"secretName": "s", "key": "k"}}, "/etc/gpu-dra-kubeconfig/k"),
    "kubelet_plugins_dir": ({"kubelet": {"rootDir": "/k"}}, "/k/plugins"),
    "kubelet_registry_dir": ({"kubelet": {"registryDir": "/r"}}, "/r"),
    "cdi_root": ({"cdi": {"root": "/etc/cdi"}}, "/etc/cdi"),
    "devices": ({"devices": "fake:t4x1"}, "fake:t4x1"),
    "driver_root": ({"nvidiaDriverRoot": "/run/nvidia/driver"}, "/run/nvidia/driver"),
    "container_driver_root": ({}, "/driver-root"),
    "nvidia_cdi_hook_path": ({"nvidiaCDIHookPath": "/opt/nvidia-cdi-hook"}, "/opt/nvidia-cdi-hook"),
    "sysfs_root": ({"host": {"sysfsRoot": "/host/sys"}}, "/host/sys"),
    "proc_root": ({"host": {"procRoot": "/host/proc"}}, "/host/proc"),
    "dev_root": ({"host": {"devRoot": "/host/dev"}}, "/host/dev"),
    "partitioning": ({"partitioning": "dynamic"}, "dynamic"),
    "shares": ({"shares": 4}, "4"),
    "shares_enforcement": ({"sharesEnforcement": "mps"}, "mps"),
    "shares_memory_reserve": ({"sharesMemoryReserve": "1Gi"}, "1Gi"),
    "config": ({"nodeConfig": {"partitioning": "static"}}, "/etc/gpu-dra/config.yaml"),
    "device_metadata": ({"deviceMetadata": True}, "true"),
    "device_status": ({"deviceStatus": True}, "true"),
    "ignore_other_drivers": ({"ignoreOtherDrivers": True}, "true"),
    "unread_patience": ({"unreadPatience": 2.5}, "2.5"),
    "health_port": ({"healthPort": 1234}, "1234"),
    "http_port": ({"httpPort": 0}, "0"),
    "log_level": ({"logLevel": "debug"}, "debug"),
    "log_format": ({"logFormat": "json"}, "json"),
}
# Settings that the chart leaves to the driver's own default until a value names them.
UNSET = {"kubeconfig", "config"}


def environment(values: Object) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container(values)["env"]}


def test_each_setting_of_the_driver_can_be_reached_by_values() -> None:
    assert set(REACHED) == set(Settings.model_fields), "a setting without a value in the chart, or the other way round"


@pytest.mark.parametrize("setting", REACHED)
def test_a_value_reaches_its_setting(setting: str) -> None:
    values, expected = REACHED[setting]

    assert environment(values)[variable(setting)] == expected


def test_defaults_of_the_chart_are_the_drivers_own() -> None:
    given = environment({})
    texts = {
        name: given[variable(name)] for name in Settings.model_fields if isinstance(given.get(variable(name)), str)
    }

    # The pod sees the driver's directory elsewhere than the host.
    settings = Settings.model_validate(texts | {"node_name": "n", "container_driver_root": None})

    assert settings == Settings(node_name="n")
    assert set(given) == {variable(name) for name in Settings.model_fields.keys() - UNSET}


def test_old_and_new_instance_overlap_in_an_upgrade() -> None:
    daemonset = one(render(NVML), "DaemonSet")["spec"]

    assert daemonset["updateStrategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert not pod_spec(NVML).get("hostNetwork"), "two instances would want the same ports"
    assert all("hostPort" not in port for port in container(NVML)["ports"])


@pytest.mark.parametrize("mode", MODES)
def test_pods_are_guaranteed_and_can_be_resized_in_place(mode: str) -> None:
    spec = pod_spec(MODES[mode])

    for each in [*spec["containers"], *spec.get("initContainers", [])]:
        assert each["resources"]["requests"] == each["resources"]["limits"]
        assert each["resources"]["limits"].keys() == {"cpu", "memory"}
        policies = {policy["resourceName"]: policy["restartPolicy"] for policy in each["resizePolicy"]}
        assert policies == {"cpu": "NotRequired", "memory": "NotRequired"}


def test_the_kubelet_asks_the_health_service() -> None:
    probes = container({"healthPort": 1234})

    assert probes["livenessProbe"]["grpc"] == {"port": 1234, "service": "liveness"}
    assert probes["startupProbe"]["grpc"] == {"port": 1234, "service": "liveness"}
    assert probes["readinessProbe"]["grpc"] == {"port": 1234, "service": "readiness"}


def test_the_grace_period_fits_the_drain_and_the_drivers_own_end() -> None:
    spec = pod_spec({"drain": {"timeoutSeconds": 300}})

    assert container({"drain": {"timeoutSeconds": 300}})["lifecycle"]["preStop"]["exec"]["command"][-1] == "300"
    # Calls in flight, then what they still have to write.
    assert spec["terminationGracePeriodSeconds"] >= 300 + LINGER + 2 * GRACE


def test_without_a_drain_the_driver_ends_at_once() -> None:
    spec = pod_spec({"drain": {"enabled": False}})

    assert "lifecycle" not in container({"drain": {"enabled": False}})
    assert spec["terminationGracePeriodSeconds"] >= LINGER + 2 * GRACE


def test_the_driver_stays_when_a_node_is_emptied() -> None:
    spec = pod_spec(NVML)

    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["tolerations"] == [{"operator": "Exists"}]


def test_fake_mode_has_no_privilege() -> None:
    spec = pod_spec(FAKE)

    assert container(FAKE)["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not spec.keys() & {"hostPID", "hostIPC", "hostNetwork"}
    assert {volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume} == {
        "/var/lib/kubelet/plugins/gpu.nvidia.com",
        "/var/lib/kubelet/plugins_registry",
        "/var/run/cdi",
    }


def test_nvml_mode_has_no_more_than_it_needs() -> None:
    spec = pod_spec(NVML)

    assert container(NVML)["securityContext"] == {"readOnlyRootFilesystem": True, "privileged": True}
    assert spec["hostPID"] is True
    assert not spec.keys() & {"hostIPC", "hostNetwork"}


@pytest.mark.parametrize("mode", ["nvml", "fake"])
def test_directories_that_cdi_specs_name_have_the_same_path_inside_and_outside(mode: str) -> None:
    values = MODES[mode] | {"kubelet": {"rootDir": "/var/lib/k0s/kubelet"}, "cdi": {"root": "/etc/cdi"}}
    paths = {v["name"]: v["hostPath"]["path"] for v in pod_spec(values)["volumes"] if "hostPath" in v}

    mounts = {mount["name"]: mount["mountPath"] for mount in container(values)["volumeMounts"]}

    assert mounts["plugin"] == paths["plugin"] == "/var/lib/k0s/kubelet/plugins/gpu.nvidia.com"
    assert mounts["registry"] == paths["registry"] == "/var/lib/k0s/kubelet/plugins_registry"
    assert mounts["cdi"] == paths["cdi"] == "/etc/cdi"


@pytest.mark.parametrize("mode", MODES)
def test_everything_mounted_is_declared_and_the_other_way_round(mode: str) -> None:
    mounted = {mount["name"] for mount in container(MODES[mode])["volumeMounts"]}

    assert mounted == {volume["name"] for volume in pod_spec(MODES[mode])["volumes"]}


@pytest.mark.parametrize("values", [NVML, FAKE], ids=["nvml", "fake"])
def test_the_program_can_write_to_its_own_directories_alone(values: Object) -> None:
    writable = {mount["name"] for mount in container(values)["volumeMounts"] if not mount.get("readOnly")}

    assert writable <= {"plugin", "registry", "cdi", "dev", "tmp"}
    assert PurePosixPath(container(values)["terminationMessagePath"]).parent == PurePosixPath("/")


@pytest.mark.parametrize("values", [NVML, FAKE], ids=["nvml", "fake"])
def test_programs_that_need_temporary_files_have_a_small_place_for_them_that_is_not_the_hosts(values: Object) -> None:
    [volume] = [volume for volume in pod_spec(values)["volumes"] if volume["name"] == "tmp"]
    [mount] = [mount for mount in container(values)["volumeMounts"] if mount["name"] == "tmp"]

    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Mi"}
    assert mount["mountPath"] == "/tmp"


def test_the_directory_of_nvidias_driver_is_only_read() -> None:
    [mount] = [mount for mount in container(NVML)["volumeMounts"] if mount["name"] == "driver-root"]

    assert mount["readOnly"] is True
    assert mount["mountPath"] == environment(NVML)["DRIVER_ROOT_CTR_PATH"]


def test_a_driver_that_is_mounted_later_is_seen() -> None:
    values = NVML | {"nvidiaDriverRoot": "/run/nvidia/driver"}

    [mount] = [mount for mount in container(values)["volumeMounts"] if mount["name"] == "driver-root"]
    [volume] = [volume for volume in pod_spec(values)["volumes"] if volume["name"] == "driver-root"]

    assert mount["mountPropagation"] == "HostToContainer"
    assert volume["hostPath"]["path"] == "/run/nvidia/driver"


def test_a_new_node_config_makes_new_pods() -> None:
    def checksum(values: Object) -> str:
        template = one(render(values), "DaemonSet")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum({"nodeConfig": {"partitioning": "none"}}) != checksum({"nodeConfig": {"partitioning": "dynamic"}})


def test_only_the_pods_get_the_token() -> None:
    assert one(render(NVML), "ServiceAccount")["automountServiceAccountToken"] is False
    assert pod_spec(NVML)["automountServiceAccountToken"] is True


def test_nodes_are_those_with_gpus_unless_the_operator_says_which() -> None:
    own = {"nodeAffinity": {}}

    assert "affinity" in pod_spec(NVML)
    assert "affinity" not in pod_spec(NVML | {"gpuNodesOnly": False})
    assert "affinity" not in pod_spec(FAKE)
    assert pod_spec(NVML | {"affinity": own})["affinity"] == own


def test_a_vertical_autoscaler_sizes_the_one_pod_of_each_node_in_place() -> None:
    objects = render({"verticalPodAutoscaler": {"enabled": True}})
    daemonset, spec = one(objects, "DaemonSet"), one(objects, "VerticalPodAutoscaler")["spec"]

    assert (spec["targetRef"]["kind"], spec["targetRef"]["name"]) == ("DaemonSet", daemonset["metadata"]["name"])
    assert spec["updatePolicy"] == {"updateMode": "InPlaceOrRecreate", "minReplicas": 1}
    [sized], [there] = spec["resourcePolicy"]["containerPolicies"], daemonset["spec"]["template"]["spec"]["containers"]
    assert sized["containerName"] == there["name"]
