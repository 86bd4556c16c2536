"""A cluster seen through its API: versions, features, permissions, classes. Pure, one question for each function."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from driver.operate.doctor.findings import Finding, ok, problem, unknown, warning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from driver.operate.doctor.state import ClusterState

    Check = Callable[[ClusterState], Iterable[Finding]]

OLDEST, NEWEST = 35, 37
"""Minor versions of Kubernetes 1 that the driver is made for."""
MAX_SKEW = 60.0
"""Seconds; tokens and certificates tolerate about that."""


def version(state: ClusterState) -> Iterable[Finding]:
    """The API server's version, and whether it serves the API that we need."""
    if not state.version:
        reason = state.unreadable.get("version", "no answer")
        yield problem("version", f"the API server cannot be asked: {reason}", "check --kubeconfig and the network")
        return
    yield from judge_version("version", "the API server", state.version)
    if state.api_versions is not None and "v1" not in state.api_versions:
        served = ", ".join(state.api_versions) or "no version at all"
        yield problem(
            "version",
            f"the API server does not serve resource.k8s.io/v1, only {served}",
            "Kubernetes 1.34 and later do by default; look at the API server's --runtime-config",
        )


def judge_version(check: str, who: str, text: str, *, about: str = "") -> Iterable[Finding]:
    """One component's version."""
    match = re.match(r"v?1\.(\d+)", text)
    if match is None:
        yield warning(check, f"{who} gives the version {text!r}, which is none of Kubernetes 1", "", about=about)
    elif int(match[1]) < OLDEST:
        remedy = f"upgrade to Kubernetes 1.{OLDEST} or later"
        yield problem(check, f"{who} is {text}; 1.{OLDEST} to 1.{NEWEST} are supported", remedy, about=about)
    elif int(match[1]) > NEWEST:
        remedy = "look for a newer version of the driver"
        yield warning(check, f"{who} is {text}; the driver knows 1.{OLDEST} to 1.{NEWEST}", remedy, about=about)
    else:
        yield ok(check, f"{who} is {text}", about=about)


def clock(state: ClusterState) -> Iterable[Finding]:
    """This machine's clock against the API server's."""
    if state.server_time is None:
        yield unknown("clock", "the API server's clock is not known: it comes with the dry run of a ResourceSlice")
        return
    skew = (state.now - state.server_time).total_seconds()
    if abs(skew) > MAX_SKEW:
        yield warning(
            "clock",
            f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the API server's",
            "have both follow a time server: tokens and certificates are refused otherwise, taints tell wrong times",
        )
    else:
        yield ok("clock", "this machine's clock agrees with the API server's")


def gates(state: ClusterState) -> Iterable[Finding]:
    """Feature gates that the settings ask for."""
    wanted = {
        "DRADeviceTaints": (True, False, "sick GPUs cannot be tainted, and pods keep getting them"),
        "DRAPartitionableDevices": (
            state.partitioning == "dynamic",
            True,
            "--partitioning dynamic publishes nothing usable",
        ),
        "DRAConsumableCapacity": (
            state.shares != "disabled",
            True,
            f"--shares {state.shares} has no effect: GPUs go whole",
        ),
        "DRAResourceClaimDeviceStatus": (state.device_status, False, "--device-status writes what the server drops"),
        "DRAExtendedResource": (
            _extended(state),
            True,
            "pods that ask for an extended resource such as nvidia.com/gpu stay pending",
        ),
        "DRAPrioritizedList": (True, False, "claims with firstAvailable are refused"),
        "DRAAdminAccess": (True, False, "claims with adminAccess, as monitoring needs them, are refused"),
        "DynamicResourceAllocation": (True, True, "there are no claims at all"),
    }
    off = [name for name, (needed, _, _) in wanted.items() if needed and state.gates.get(name) is False]
    for name in off:
        _, vital, consequence = wanted[name]
        say = problem if vital else warning
        yield say(
            "feature-gates",
            f"the feature gate {name} is off: {consequence}",
            f"--feature-gates={name}=true for API server, controller manager, scheduler and kubelet",
            about=name,
        )
    asked = [name for name, (needed, _, _) in wanted.items() if needed]
    known = [name for name in asked if name in state.gates]
    if known and not off:
        yield ok("feature-gates", f"the feature gates that these settings need are on: {', '.join(sorted(known))}")
    if missing := sorted(set(asked) - set(known)):
        yield unknown(
            "feature-gates",
            f"it is not known whether these feature gates are on: {', '.join(missing)}; "
            f"{state.unreadable.get('gates', 'the server tells of them neither in its metrics nor in a dry run')}",
            remedy="run it with an administrator's kubeconfig",
        )


def _extended(state: ClusterState) -> bool:
    return any("extendedResourceName" in found["spec"] for found in state.classes or ())


def permissions(state: ClusterState) -> Iterable[Finding]:
    """What the driver may do at the API server."""
    if state.access is None:
        reason = state.unreadable.get("access", "there is no driver pod whose ServiceAccount could be asked about")
        yield unknown("permissions", f"the driver's permissions are not known: {reason}")
        return
    missing = [access.permission for access in state.access if not access.allowed]
    for vital, why in dict.fromkeys((permission.vital, permission.why) for permission in missing):
        verbs: dict[str, list[str]] = {}
        for permission in missing:
            if permission.why == why:
                verbs.setdefault(permission.target, []).append(permission.verb)
        what = ", ".join(f"{' or '.join(names)} {target}" for target, names in verbs.items())
        say = problem if vital else warning
        yield say(
            "permissions",
            f"{state.subject} may not {what}: {why}",
            "apply the chart's ClusterRole and Role again, and their bindings (deploy/chart/templates/rbac.yaml)",
            about=what,
        )
    if state.node_bound is False:
        yield problem(
            "permissions",
            f"the token of {state.subject} does not say which node its pod is on: the admission policy refuses its "
            "slices",
            "use the token that the kubelet mounts into the pod, not one made by hand or an old Secret",
        )
    if not missing and state.node_bound is not False:
        yield ok("permissions", f"{state.subject} may do what these settings need ({len(state.access)} permissions)")


def classes(state: ClusterState) -> Iterable[Finding]:
    """DeviceClasses: through which claims find our devices."""
    if state.classes is None:
        reason = state.unreadable.get("classes", "")
        yield unknown("device-classes", f"DeviceClasses cannot be listed: {reason}")
        return
    ours = [found for found in state.classes if state.driver_name in class_text(found)]
    if not ours:
        yield problem(
            "device-classes",
            f"no DeviceClass selects devices of {state.driver_name}: no claim can ask for them",
            "apply the chart's DeviceClasses (deviceClasses.create), or deploy/examples/00-deviceclasses.yaml",
        )
        return
    published = sum(len(found["spec"].get("devices") or ()) for found in state.slices or ())
    names = [found["metadata"]["name"] for found in ours]
    empty = [name for name in names if published and state.selected.get(name) == 0]
    asked = {part for claim in state.claims or () for part in requested_classes(claim)}
    for name in empty:
        if name not in asked and len(empty) < len(names):
            continue  # one for partitions on nodes without: nobody misses anything
        say = problem if len(empty) == len(names) else warning
        yield say(
            "device-classes",
            f"DeviceClass {name} selects none of the {published} devices that are published",
            "compare its selectors with the devices (gpu-dra slices -o table), or change --partitioning and --shares",
            about=name,
        )
    good = [name for name in names if name not in empty]
    if good:
        counts = [f"{name} ({state.selected[name]})" if state.selected.get(name) else name for name in good]
        yield ok("device-classes", f"DeviceClasses for these devices: {', '.join(counts)}")
    for why in dict.fromkeys(state.not_evaluated.values()):
        concerned = ", ".join(name for name in names if state.not_evaluated.get(name) == why)
        yield unknown(
            "device-classes",
            f"what these DeviceClasses select was not tried: {concerned} ({why})",
            remedy="pip install '.[sim]' in a clone of the driver's repository brings CEL, for a run from there",
        )


def requested_classes(claim: Mapping[str, Any]) -> Iterable[str]:
    """The classes that a claim asks for."""
    for request in claim["spec"].get("devices", {}).get("requests") or ():
        for part in (request.get("exactly") or {}, *(request.get("firstAvailable") or ())):
            if part.get("deviceClassName"):
                yield part["deviceClassName"]


def class_text(found: object) -> str:
    """A class's selectors, for a look at which driver they name."""
    spec = found["spec"]  # type: ignore[index]
    return " ".join(selector.get("cel", {}).get("expression", "") for selector in spec.get("selectors") or ())


CHECKS: tuple[Check, ...] = (version, clock, gates, permissions, classes)
