"""One example of deploy/examples as a user would try it: apply it, wait for what it promises, see who got what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driver.sim.demo.workloads import PATIENCE, StepError, count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from driver.sim.demo.workloads import Example, Workloads

PREFIX = "GPU_DRA_"
HOLDS = "sleep 3600"
"""What a container's command says that keeps its GPU until the pod is deleted."""
FEW = 3
ALL_GPUS = -1
DIFFERENT = {
    "deviceclasses": 0,
    "two-gpus-one-numa-node": 2,
    "same-pcie-root": 2,
    "two-gpus-over-nvlink": 2,
    "admin-access": ALL_GPUS,
    "all-gpus": ALL_GPUS,
    "seven-small-partitions": 7,
    "mixed-partitions": 3,
    "maintenance": 2,
}
"""How many different devices the pods of an example have together, if not one."""
ONE_AFTER_ANOTHER = ("quota", "batch-job")
"""Their pods may have any GPU each."""


async def run(workloads: Workloads, example: Example, *, within: float = PATIENCE) -> list[str]:
    """Apply it, and wait until its pods have ended, or run all at once if they hold their GPUs; so many seconds each.

    Returns the devices that its containers have printed, by pod and container. Raises StepError for a pod that fails or
    prints nothing, NotSeenError for one that does not get that far.
    """
    await workloads.apply(example.objects)
    devices = []
    for pod in example.of_kind("Pod"):
        devices += await pod_devices(workloads, pod, within=within)
    for job in example.of_kind("Job"):
        devices += await _job_devices(workloads, job, within=within)
    return devices


async def pod_devices(workloads: Workloads, pod: Mapping[str, Any], *, within: float = PATIENCE) -> list[str]:
    """Wait for one pod; the devices that its containers have printed."""
    namespace, name = _key(pod)
    phases, what = ({"Running"}, "runs") if _holds(pod["spec"]) else ({"Succeeded", "Failed"}, "has ended")

    async def there() -> list[str] | None:
        found = await workloads.pod(namespace, name)
        if not found or found["status"].get("phase") not in phases:
            return None
        printed = await _printed(workloads, found)
        if (not all(printed) and found["status"]["phase"] != "Running") or found["status"]["phase"] == "Failed":
            states = [status["state"] for status in found["status"].get("containerStatuses") or []]
            raise StepError(
                f"pod {name} is {found['status']['phase']} and printed {await _logs(workloads, found)}; "
                f"its containers: {states}"
            )
        return [device for devices in printed for device in devices] if all(printed) else None

    return await workloads.seen(there, what=f"pod {name} {what} with a GPU", within=within)


async def _job_devices(workloads: Workloads, job: Mapping[str, Any], *, within: float) -> list[str]:
    namespace, name = _key(job)
    holds = _holds(job["spec"]["template"]["spec"])
    wanted = job["spec"]["parallelism" if holds else "completions"]

    async def there() -> list[str] | None:
        found = await workloads.pods(**{"batch.kubernetes.io/job-name": name})
        ready = [pod for pod in found if pod["status"].get("phase") == ("Running" if holds else "Succeeded")]
        if len(ready) < wanted:
            return None
        printed = [devices for pod in ready for devices in await _printed(workloads, pod)]
        return sorted(device for devices in printed for device in devices) if all(printed) else None

    return await workloads.seen(there, what=f"{wanted} pods of {namespace}/{name}, each with a GPU", within=within)


async def unschedulable(workloads: Workloads, example: Example) -> bool:
    """Whether the scheduler has found no devices for a pod of it."""
    pods = [await workloads.pod(*_key(pod)) or {} for pod in example.of_kind("Pod")]
    for job in example.of_kind("Job"):
        pods += await workloads.pods(**{"batch.kubernetes.io/job-name": _key(job)[1]})
    conditions = [condition for pod in pods for condition in pod.get("status", {}).get("conditions") or []]
    return any(condition.get("reason") == "Unschedulable" for condition in conditions)


def check_number(example: Example, devices: Sequence[str], *, gpus: int) -> None:
    """Raises StepError if its pods have not as many different devices as they should, on a node of so many GPUs."""
    kind = example.name.partition("-")[2]
    if kind in ONE_AFTER_ANOTHER:
        return
    expected = DIFFERENT.get(kind, 1)
    expected = gpus if expected == ALL_GPUS else expected
    if len(set(devices)) != expected:
        raise StepError(f"{example.name}: {count(expected, 'different device')} expected, its pods have {devices}")


async def resize(workloads: Workloads, example: Example) -> None:
    """Twice the cpu, and still the same container."""
    [manifest] = example.of_kind("Pod")
    name = manifest["metadata"]["name"]
    before = await workloads.pod("default", name) or {}
    [container] = before["spec"]["containers"]
    for kind in ("requests", "limits"):
        container["resources"][kind]["cpu"] = "200m"
    await workloads.resize(manifest, container)

    async def resized() -> dict[str, Any] | None:
        pod = await workloads.pod("default", name) or {}
        status: dict[str, Any] = pod["status"]["containerStatuses"][0]
        return status if status["resources"]["limits"]["cpu"] == "200m" else None

    status = await workloads.seen(resized, what=f"pod {name} with twice the cpu")
    if status["containerID"] != before["status"]["containerStatuses"][0]["containerID"]:
        raise StepError(f"a resize restarted pod {name}")


async def _printed(workloads: Workloads, pod: Mapping[str, Any]) -> list[list[str]]:
    """By container: ``GPU_DRA_GPU_3=GPU-…``, as the examples print it, is gpu-3."""
    return [
        [
            line.partition("=")[0].removeprefix(PREFIX).lower().replace("_", "-")
            for line in log.splitlines()
            if line.startswith(PREFIX)
        ]
        for log in await _logs(workloads, pod)
    ]


async def _logs(workloads: Workloads, pod: Mapping[str, Any]) -> list[str]:
    namespace, name = _key(pod)
    return [await workloads.log(namespace, name, container["name"]) for container in pod["spec"]["containers"]]


def summary(devices: Sequence[str]) -> str:
    """Devices on one line; of many the first, the last, and how many they are."""
    different = sorted(set(devices))
    if len(different) <= FEW:
        return ", ".join(different)
    return f"{different[0]} … {different[-1]}, {len(different)} of them"


def _holds(spec: Mapping[str, Any]) -> bool:
    return any(HOLDS in " ".join(container.get("command") or []) for container in spec["containers"])


def _key(obj: Mapping[str, Any]) -> tuple[str, str]:
    return obj["metadata"].get("namespace", "default"), obj["metadata"]["name"]
