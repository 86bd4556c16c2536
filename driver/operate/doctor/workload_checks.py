"""A cluster seen through its API: nodes, slices, and the claims and pods that wait. Pure."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

from driver.inventory import is_own_slice, plugin_resources
from driver.operate.doctor.cluster_checks import class_text, judge_version, requested_classes
from driver.operate.doctor.findings import Finding, ok, problem, unknown, warning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from driver.operate.doctor.state import ClusterState, Object

    Check = Callable[[ClusterState], Iterable[Finding]]

PATIENCE = 60.0
"""Seconds that pods and deletions may take before anybody wonders."""
_FAILED_CLAIM = re.compile(r"NodePrepareResources failed for ResourceClaim ([^\s:]+): ")
"""How a kubelet names the claim that a driver has not prepared."""
RULES_DEFECT = re.compile(r"v1\.36\.[012]\b")
"""Releases whose scheduler watches rules in one version of the API and takes them for another's."""
FINALIZER = "resource.kubernetes.io/delete-protection"


def nodes(state: ClusterState) -> Iterable[Finding]:
    """The nodes that have, or should have, devices of ours."""
    if state.nodes is None:
        yield unknown("nodes", f"nodes cannot be read: {state.unreadable.get('nodes', '')}")
        return
    names = {node["metadata"]["name"] for node in state.nodes}
    if state.node_name and state.node_name not in names:
        yield problem(
            "nodes",
            f"there is no Node {state.node_name}: slices cannot be published for it",
            "--node-name (NODE_NAME) has to be the Node's name, from the downward API: spec.nodeName",
            about=state.node_name,
        )
    for node in state.nodes:
        yield from _node(node)


def _node(node: Object) -> Iterable[Finding]:
    name = node["metadata"]["name"]
    status = node.get("status") or {}
    info = status.get("nodeInfo") or {}
    if info.get("kubeletVersion"):
        yield from judge_version("kubelet-version", f"the kubelet of {name}", info["kubeletVersion"], about=name)
    ready = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), None)
    if ready is not None and ready["status"] != "True":
        yield problem(
            "nodes",
            f"Node {name} is not ready: {ready.get('message') or ready.get('reason') or 'no reason is given'}",
            "the kubelet has to run before anything of ours can: systemctl status kubelet there",
            about=name,
        )
    runtime = str(info.get("containerRuntimeVersion", ""))
    if runtime.startswith("containerd://1."):
        yield warning(
            "runtime",
            f"{name} runs {runtime}, which ignores CDI unless told otherwise: containers would start without GPUs",
            "set enable_cdi = true in its configuration (docs/install.md), or upgrade to containerd 2",
            about=name,
        )
    elif runtime.startswith("docker://"):
        yield problem(
            "runtime",
            f"{name} runs {runtime}, which knows no CDI devices from the kubelet",
            "use containerd 2",
            about=name,
        )
    resources = plugin_resources(node)
    if resources:
        amounts = ", ".join(f"{key}: {value}" for key, value in sorted(resources.items()))
        yield problem(
            "other-drivers",
            f"a device plugin offers the GPUs of {name} too ({amounts}): the scheduler would hand each GPU out twice",
            "keep one of the two off this node (docs/migration.md)",
            about=name,
        )


def slices(state: ClusterState) -> Iterable[Finding]:
    """Whether the pools are complete and whole."""
    if state.slices is None:
        yield unknown("slices", f"ResourceSlices cannot be listed: {state.unreadable.get('slices', '')}")
        return
    known = (
        {node["metadata"]["name"] for node in state.nodes} if state.nodes is not None and not state.node_name else None
    )
    pools: dict[tuple[str, str], list[Object]] = {}
    for found in state.slices:
        spec = found["spec"]
        pools.setdefault((spec.get("nodeName") or "", spec["pool"]["name"]), []).append(found)
    for (node, pool), members in sorted(pools.items()):
        if known is not None and node not in known:
            yield warning(
                "slices",
                f"{len(members)} ResourceSlices are of Node {node}, which does not exist",
                f"kubectl delete resourceslices --field-selector spec.nodeName={node},spec.driver={state.driver_name}",
                about=node,
            )
            continue
        yield from _pool(state, node, pool, members)
    if not pools:
        where = f"for Node {state.node_name}" if state.node_name else "anywhere"
        yield problem(
            "slices",
            f"no ResourceSlice of {state.driver_name} is published {where}: the scheduler knows no GPU",
            "run gpu-dra doctor in the driver's pod on a GPU node: it says what keeps it from publishing",
            about=state.node_name,
        )


def _pool(state: ClusterState, node: str, pool: str, members: list[Object]) -> Iterable[Finding]:
    newest = max(found["spec"]["pool"]["generation"] for found in members)
    current = [found for found in members if found["spec"]["pool"]["generation"] == newest]
    expected = current[0]["spec"]["pool"]["resourceSliceCount"]
    bad = False
    foreign = [
        name
        for found in members
        if not is_own_slice(name := found["metadata"]["name"], driver_name=state.driver_name, node_name=node)
    ]
    if foreign:
        bad = True
        yield warning(
            "slices",
            f"ResourceSlices of {state.driver_name} for {node} were not written by this driver: "
            f"{', '.join(sorted(foreign))}",
            "does NVIDIA's DRA driver run there? If not, this driver removes them when it publishes",
            about=node,
        )
    if len(current) != expected:
        bad = True
        yield problem(
            "slices",
            f"pool {pool} of {node} is incomplete: {len(current)} of {expected} ResourceSlices of generation {newest}; "
            "the scheduler allocates nothing from it",
            "a moment during a change; if it stays, the driver there does not get its writes through: see its log",
            about=node,
        )
    elif len(members) > len(current):
        bad = True
        yield warning(
            "slices",
            f"pool {pool} of {node} has {len(members) - len(current)} ResourceSlices older than generation {newest}",
            "the driver there removes them; if they stay, it does not run or lacks the permission to delete",
            about=node,
        )
    names = Counter(device["name"] for found in current for device in found["spec"].get("devices") or ())
    twice = sorted(name for name, count in names.items() if count > 1)
    if twice:
        bad = True
        yield problem(
            "slices",
            f"pool {pool} of {node} has devices twice ({', '.join(twice[:3])}…): the scheduler takes the whole pool as "
            "invalid",
            "two drivers publish for this node under one name: keep one of them off it",
            about=node,
        )
    yield from _taints(state, node, current)
    yield from _rules(state, node, pool, names)
    if not bad:
        yield ok("slices", f"{node} offers {len(names)} devices, in a complete pool of {len(current)}", about=node)


def _taints(state: ClusterState, node: str, current: list[Object]) -> Iterable[Finding]:
    found: dict[str, list[str]] = {}
    for one in current:
        for device in one["spec"].get("devices") or ():
            for taint in device.get("taints") or ():
                if taint["effect"] != "None":
                    value = f"={taint['value']}" if taint.get("value") else ""
                    found.setdefault(f"{taint['key']}{value}:{taint['effect']}", []).append(device["name"])
    for taint, devices in sorted(found.items()):
        yield warning(
            "taints",
            f"{node}: {_some(devices)} tainted {taint}: no new pod gets them",
            "see docs/operations.md for what the taint means",
            about=node,
        )


def _rules(state: ClusterState, node: str, pool: str, devices: Iterable[str]) -> Iterable[Finding]:
    for rule in state.rules or ():
        found = [name for name in devices if rule.taints(name, pool=pool)]
        if found and rule.taint.forbids:
            yield warning(
                "taints",
                f"{node}: {_some(found)} tainted by DeviceTaintRule {rule.taint.rule} ({rule.taint.words}): "
                "no new pod gets them",
                f"an administrator's: kubectl get devicetaintrule {rule.taint.rule} -o yaml; delete it when it is over",
                about=node,
            )


def _some(devices: list[str]) -> str:
    return f"{', '.join(devices[:3])}{f' and {len(devices) - 3} more' if len(devices) > 3 else ''}"


def rules(state: ClusterState) -> Iterable[Finding]:
    """Whether what administrators have tainted is known, and whether the scheduler bears it."""
    if state.rules is None:
        yield unknown("rules", f"DeviceTaintRules cannot be listed: {state.unreadable.get('rules', '')}")
    elif state.rules and RULES_DEFECT.match(state.version):
        yield problem(
            "rules",
            f"the scheduler of Kubernetes {state.version} heeds no DeviceTaintRule, and ends with a panic while there "
            f"is one: {', '.join(rule.taint.rule for rule in state.rules)}",
            "delete them, whichever version of the API they were made in, and cordon the node; or upgrade Kubernetes",
        )


def pods(state: ClusterState) -> Iterable[Finding]:
    """Pods that wait for a device of ours, and why."""
    if state.pods is None:
        yield unknown("pods", f"pods cannot be listed: {state.unreadable.get('pods', '')}")
        return
    if state.events is None:
        yield unknown(
            "pods",
            f"why pods do not start is not known, as Events cannot be listed: {state.unreadable.get('events', '')}",
        )
    told = {_pod_of(event): event["message"] for event in state.events or ()}
    claims = {_key(claim): claim for claim in state.claims or ()}
    waiting = 0
    for pod in state.pods:
        if not _uses_us(state, pod, claims) or _age(state, pod) < PATIENCE:
            continue
        name = "{}/{}".format(*_key(pod))
        scheduled = _condition(pod, "PodScheduled")
        if scheduled is not None and scheduled["status"] == "False":
            waiting += 1
            yield warning(
                "pods",
                f"pod {name} waits for a node: {scheduled.get('message') or scheduled.get('reason')}",
                "gpu-dra explain PROFILE on a node says who holds what it asks for; also compare its claim's class and "
                "selectors with what is published",
                about=name,
            )
        elif pod.get("status", {}).get("phase") == "Pending" and _key(pod) in told:
            waiting += 1
            yield _cannot_start(state, pod, told[_key(pod)], claims)
        elif pod["metadata"].get("deletionTimestamp") and _overdue(state, pod):
            waiting += 1
            yield problem(
                "pods",
                f"pod {name} on {pod['spec'].get('nodeName')} does not end: its claims cannot be unprepared",
                "does the driver serve that node? Run gpu-dra doctor there",
                about=name,
            )
    if not waiting:
        yield ok("pods", "no pod waits for a device of this driver")


def _cannot_start(state: ClusterState, pod: Object, message: str, claims: Mapping[tuple[str, str], Object]) -> Finding:
    """What a kubelet says of a failed prepare; the claim that it names may be another driver's."""
    namespace, name = _key(pod)
    sentence = f"pod {namespace}/{name} on {pod['spec'].get('nodeName')} cannot start: {message}"
    named = _FAILED_CLAIM.search(message)
    drivers = _drivers(claims.get((namespace, named[1]), {})) if named else set()
    others = " and ".join(sorted(drivers - {state.driver_name}))
    about = f"{namespace}/{name}"
    if others and state.driver_name not in drivers:
        remedy = f"that claim has devices of {others} only: the log of that driver on the node says more"
        return warning("pods", sentence, remedy, about=about)
    remedy = "the kubelet tries again after a minute; the driver's log on that node has the same claim"
    if others:
        remedy += f", and if it was prepared here, look at the log of {others}"
    return problem("pods", sentence, remedy, about=about)


def claims(state: ClusterState) -> Iterable[Finding]:
    """Claims that should be gone."""
    if state.claims is None:
        yield unknown("claims", f"ResourceClaims cannot be listed: {state.unreadable.get('claims', '')}")
        return
    alive = {_key(pod) for pod in state.pods} if state.pods is not None else None
    found = False
    for claim in state.claims:
        if not _overdue(state, claim) or FINALIZER not in (claim["metadata"].get("finalizers") or ()):
            continue
        found = True
        name = "{}/{}".format(*_key(claim))
        consumers = (claim.get("status") or {}).get("reservedFor") or ()
        users = [consumer["name"] for consumer in consumers]
        pods = [consumer["name"] for consumer in consumers if consumer.get("resource") == "pods"]  # others: PodGroups
        gone = [pod for pod in pods if alive is not None and (claim["metadata"]["namespace"], pod) not in alive]
        if users and len(gone) == len(users):
            why = f"it is reserved for pods that are gone ({', '.join(gone)})"
            remedy = "the controller manager removes such reservations: is it running?"
        elif users:
            why = f"it is in use by {', '.join(users)}"
            remedy = "it goes when they have ended"
        else:
            why = "nobody uses it"
            remedy = "the controller manager removes the finalizer once the claim is deallocated: is it running?"
        yield warning("claims", f"claim {name} was deleted and is still there: {why}", remedy, about=name)
    if not found:
        yield ok("claims", f"{len(state.claims)} ResourceClaims, none stuck")


def _uses_us(state: ClusterState, pod: Object, claims: Mapping[tuple[str, str], Object]) -> bool:
    """Whether one of a pod's claims asks for a class of ours or was allocated from us, as far as that is known."""
    statuses = pod.get("status", {}).get("resourceClaimStatuses") or ()
    names = [entry.get("resourceClaimName") for entry in statuses]
    names += [entry.get("resourceClaimName") for entry in pod["spec"].get("resourceClaims") or ()]
    ours = {found["metadata"]["name"] for found in state.classes or () if state.driver_name in class_text(found)}
    resources = {
        found["spec"].get("extendedResourceName") or f"deviceclass.resource.kubernetes.io/{found['metadata']['name']}"
        for found in state.classes or ()
        if found["metadata"]["name"] in ours
    }
    for container in pod["spec"].get("containers") or ():
        if resources & set((container.get("resources") or {}).get("limits") or {}):
            return True
    found = [claims[key] for name in names if name and (key := (pod["metadata"]["namespace"], name)) in claims]
    return any(not ours.isdisjoint(requested_classes(claim)) or state.driver_name in _drivers(claim) for claim in found)


def _drivers(claim: Object) -> set[str]:
    """Whose devices were allocated to a claim."""
    results = ((claim.get("status") or {}).get("allocation") or {}).get("devices", {}).get("results") or ()
    return {result["driver"] for result in results}


def _condition(obj: Object, kind: str) -> dict[str, Any] | None:
    return next((c for c in obj.get("status", {}).get("conditions") or () if c["type"] == kind), None)


def _key(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _pod_of(event: Object) -> tuple[str, str]:
    involved = event.get("involvedObject") or {}
    return involved.get("namespace", ""), involved.get("name", "")


def _age(state: ClusterState, obj: Object) -> float:
    return _since(state, obj["metadata"].get("creationTimestamp"))


def _overdue(state: ClusterState, obj: Object) -> bool:
    deleted = obj["metadata"].get("deletionTimestamp")
    return bool(deleted) and _since(state, deleted) > PATIENCE


def _since(state: ClusterState, text: str | None) -> float:
    """Seconds by the API server's clock, where it is known."""
    if not text:
        return 0.0
    return ((state.server_time or state.now) - datetime.fromisoformat(text)).total_seconds()


CHECKS: tuple[Check, ...] = (nodes, slices, rules, pods, claims)
