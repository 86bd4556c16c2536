"""What a pod's spec means for its containers, and what they mean for the pod's status. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from driver.sim.kubelet.containers import Container, Exit

Status = dict[str, Any]

SLEEPER = ("sleep", "infinity")
_REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")


class ConfigError(Exception):
    """A container whose environment cannot be built (CreateContainerConfigError)."""


@dataclass(slots=True, kw_only=True)
class Slot:
    """One container of a pod's spec over all its attempts."""

    spec: dict[str, Any]
    state: Status
    last_state: Status = field(default_factory=dict)
    attempt: int = 0
    container: Container | None = None

    @property
    def name(self) -> str:
        """Name in the pod's spec."""
        return str(self.spec["name"])

    @property
    def exit_code(self) -> int | None:
        """Exit code, None while it has not ended."""
        terminated = self.state.get("terminated")
        return terminated["exitCode"] if terminated else None

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return "running" in self.state

    @property
    def process(self) -> Container:
        """The latest container. Raises LookupError before the first one."""
        if self.container is None:
            raise LookupError(f"container {self.name} was never started")
        return self.container

    def started(self, container: Container) -> None:
        """Take over a container that was just started, or adopted."""
        if "terminated" in self.state:
            self.last_state = self.state
        self.container = container
        self.attempt = container.attempt
        self.state = {"running": {"startedAt": timestamp(container.started)}}

    def ended(self, exit_: Exit) -> None:
        """Note the end of the container."""
        reason = "Completed" if exit_.code == 0 else "Error"
        self.state = {
            "terminated": {
                "exitCode": exit_.code,
                "reason": reason,
                "startedAt": timestamp(self.process.started),
                "finishedAt": timestamp(exit_.finished),
                "containerID": f"process://{self.process.id}",
            }
        }

    def waiting(self, reason: str, message: str = "") -> None:
        """Note why the container does not run; an end before that becomes its last state."""
        if "terminated" in self.state:
            self.last_state = self.state
        self.state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def timestamp(seconds: float) -> str:
    """RFC 3339 in whole seconds, as the API has it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def slots(pod: Mapping[str, Any]) -> list[Slot]:
    """One for each container."""
    return [Slot(spec=spec, state={"waiting": {"reason": "ContainerCreating"}}) for spec in pod["spec"]["containers"]]


def should_restart(policy: str, exit_code: int) -> bool:
    """Whether a container that ended starts again."""
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def environment(pod: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, str]:
    """The container's variables before CDI. Raises ConfigError for a source that does not exist here."""
    env = {"HOME": "/root", "HOSTNAME": pod["spec"].get("hostname") or pod["metadata"]["name"]}
    if container.get("envFrom"):
        raise ConfigError("envFrom is not supported by the embedded kubelet")
    for variable in container.get("env") or []:
        name = variable["name"]
        if variable.get("valueFrom"):
            raise ConfigError(f"variable {name}: valueFrom is not supported by the embedded kubelet")
        env[name] = expand(variable.get("value") or "", env)
    return env


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` where the name is known; ``$$`` is a plain ``$``."""
    return _REFERENCE.sub(lambda m: "$" if m[1] == "$" else env.get(m[2], m[0]), text)


def argv(container: Mapping[str, Any], env: Mapping[str, str]) -> list[str]:
    """What to execute; no image has a command of its own, so without one the container sleeps."""
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    return [expand(word, env) for word in words or SLEEPER]


def phase(pod: Mapping[str, Any], all_slots: Sequence[Slot], *, terminal: bool) -> str:
    """The pod's phase; ``terminal`` when nothing will be started again whatever the restart policy says."""
    policy = pod["spec"].get("restartPolicy") or "Always"
    codes = [slot.exit_code for slot in all_slots]
    if terminal:
        return "Succeeded" if all(code == 0 for code in codes) else "Failed"
    if any("waiting" in slot.state and not slot.last_state for slot in all_slots):
        return "Pending"
    if policy == "Always" or any(code is None for code in codes):
        return "Running"
    if all(code == 0 for code in codes):
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def pod_status(
    pod: Mapping[str, Any],
    all_slots: Sequence[Slot],
    *,
    now: float,
    sandbox: bool,
    terminal: bool,
    node_ip: str,
    resources: Mapping[str, list[Status]],
) -> Status:
    """The parts of ``status`` that the kubelet owns; ``resources`` is allocatedResourcesStatus by container."""
    old = pod.get("status") or {}
    status: Status = {
        "phase": phase(pod, all_slots, terminal=terminal),
        "hostIP": node_ip,
        "hostIPs": [{"ip": node_ip}],
        "startTime": old.get("startTime") or timestamp(now),
        "qosClass": old.get("qosClass") or "BestEffort",
        "containerStatuses": [container_status(slot, resources.get(slot.name)) for slot in all_slots],
    }
    if sandbox:
        status |= {"podIP": node_ip, "podIPs": [{"ip": node_ip}]}
    if generation := pod["metadata"].get("generation"):
        status["observedGeneration"] = generation
    status["conditions"] = conditions(
        old.get("conditions") or [],
        all_slots,
        now=now,
        sandbox=sandbox,
        phase_=status["phase"],
    )
    return status


def container_status(slot: Slot, resources: list[Status] | None) -> Status:
    """One entry of containerStatuses."""
    image = slot.spec.get("image") or ""
    status: Status = {
        "name": slot.name,
        "state": slot.state,
        "lastState": slot.last_state,
        "ready": slot.running,
        "started": slot.running,
        "restartCount": slot.attempt,
        "image": image,
        "imageID": image,
    }
    if slot.container:
        status["containerID"] = f"process://{slot.container.id}"
        allocated = slot.spec.get("resources") or {}
        status["resources"] = allocated
        if requests := allocated.get("requests"):
            status["allocatedResources"] = requests
    if resources:
        status["allocatedResourcesStatus"] = resources
    return status


def conditions(
    old: Iterable[Mapping[str, Any]], all_slots: Sequence[Slot], *, now: float, sandbox: bool, phase_: str
) -> list[Status]:
    """The kubelet's conditions beside those of others; a transition time changes only with the status."""
    before = {condition["type"]: dict(condition) for condition in old}
    unready = [slot.name for slot in all_slots if not slot.running]
    ready: Status = {"status": "True"}
    if unready:
        ended = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase_)
        ready = {"status": "False", "reason": ended or "ContainersNotReady"}
        ready |= {} if ended else {"message": f"containers with unready status: [{' '.join(unready)}]"}
    own = {
        "PodReadyToStartContainers": {"status": "True" if sandbox else "False"},
        "Initialized": {"status": "True"},
        "Ready": ready,
        "ContainersReady": ready,
    }
    result = [condition for kind, condition in before.items() if kind not in own]
    for kind, condition in own.items():
        known = before.get(kind, {})
        since = known.get("lastTransitionTime") if known.get("status") == condition["status"] else None
        result.append({"type": kind, "lastTransitionTime": since or timestamp(now), **condition})
    return sorted(result, key=lambda condition: str(condition["type"]))
