"""Looking at a cluster through its API, with whatever these credentials may read. Writes nothing but dry runs."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from driver.cluster import list_rules
from driver.inventory import slice_name
from driver.kube import RESOURCE, Api, ApiError
from driver.operate.doctor.cluster_checks import class_text
from driver.operate.doctor.permissions import needed
from driver.operate.doctor.state import AccessReview, ClusterState, Object, Permission

if TYPE_CHECKING:
    from driver.cluster import Rule
    from driver.node import Settings

POD_LABEL = "app.kubernetes.io/name=gpu-dra-driver"
_FEATURE = re.compile(r'^kubernetes_feature_enabled\{name="([A-Za-z]+)"[^}]*\} ([01])', re.MULTILINE)
_ACCOUNT = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")


class _Looker:
    """One reading; notes what could not be read."""

    def __init__(self, api: Api, settings: Settings, *, node_name: str) -> None:
        self._api = api
        self._settings = settings
        self._node = node_name
        self.unreadable: dict[str, str] = {}

    async def try_get(self, what: str, path: str, params: dict[str, Any] | None = None) -> dict[str, Any] | None:
        try:
            return await self._api.get(path, params, timeout=30)
        except ApiError as error:
            self.unreadable[what] = _reason(error)
            return None

    async def items(self, what: str, path: str, params: dict[str, Any] | None = None) -> tuple[Object, ...] | None:
        listing = await self.try_get(what, path, params)
        return None if listing is None else tuple(listing.get("items") or ())

    async def rules(self) -> tuple[Rule, ...] | None:
        try:
            return await list_rules(self._api, driver=self._settings.driver_name, pool=self._node)
        except ApiError as error:
            self.unreadable["rules"] = _reason(error)
            return None

    async def nodes(
        self, slices: tuple[Object, ...] | None, pods: tuple[Object, ...] | None
    ) -> tuple[Object, ...] | None:
        if self._node:
            try:
                return (await self._api.get(f"/api/v1/nodes/{self._node}"),)
            except ApiError as error:
                if error.status == 404:
                    return ()
                self.unreadable["nodes"] = _reason(error)
                return None
        found = await self.items("nodes", "/api/v1/nodes")
        if found is None:
            return None
        ours = {obj["spec"].get("nodeName") for obj in slices or ()} | {
            pod["spec"].get("nodeName") for pod in pods or ()
        }
        return tuple(node for node in found if node["metadata"]["name"] in ours)

    async def gates(self) -> tuple[dict[str, bool], datetime | None]:
        """Feature gates from the server's metrics, and from what it leaves of a slice in a dry run; and its clock."""
        found: dict[str, bool] = {}
        server_time = None
        try:
            sent = _probe_slice(self._settings.driver_name, self._node or "gpu-dra-doctor")
            stored = await self._api.request("POST", f"{RESOURCE}/resourceslices", params={"dryRun": "All"}, body=sent)
            found = _kept(stored["spec"])
            server_time = datetime.fromisoformat(stored["metadata"]["creationTimestamp"])
        except ApiError as error:
            self.unreadable["gates"] = _reason(error)
        except (KeyError, ValueError):
            pass
        try:
            metrics = await self._api.get_text("/metrics", timeout=30)
        except ApiError as error:
            self.unreadable.setdefault("gates", _reason(error))
        else:
            found |= {name: value == "1" for name, value in _FEATURE.findall(metrics)}
        return found, server_time

    async def access(self, pods: tuple[Object, ...] | None) -> tuple[str, bool | None, tuple[AccessReview, ...] | None]:
        """Whose permissions, whether the token is bound to a node, and what is allowed."""
        name, bound = await self._who()
        if name and not _ACCOUNT.fullmatch(name):  # a person: the driver's pods say who the driver is
            accounts = {_account(pod) for pod in pods or ()}
            if not accounts:
                return "", None, None
            name, bound = min(accounts), None
            kind, spec = "SubjectAccessReview", {"user": name, "groups": _groups(name)}
        else:
            kind, spec = "SelfSubjectAccessReview", {}
        wanted = needed(self._settings, node_name=self._node)
        try:
            answers = [AccessReview(permission=one, allowed=await self._may(kind, spec, one)) for one in wanted]
        except ApiError as error:
            self.unreadable["access"] = str(error)
            return name, bound, None
        return name or "this user", bound, tuple(answers)

    async def _who(self) -> tuple[str, bool | None]:
        try:
            review = await self._api.request(
                "POST",
                "/apis/authentication.k8s.io/v1/selfsubjectreviews",
                body={"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"},
            )
        except ApiError:
            return "", None
        user = review.get("status", {}).get("userInfo", {})
        name = str(user.get("username") or "")
        extra = user.get("extra") or {}
        return name, bool(extra.get("authentication.kubernetes.io/node-name")) if _ACCOUNT.fullmatch(name) else None

    async def _may(self, kind: str, spec: dict[str, Any], permission: Permission) -> bool:
        resource, _, subresource = permission.resource.partition("/")
        attributes = {
            "verb": permission.verb,
            "group": permission.group,
            "resource": resource,
            "subresource": subresource,
            "namespace": permission.namespace,
            "name": permission.name,
        }
        review = await self._api.request(
            "POST",
            f"/apis/authorization.k8s.io/v1/{kind.lower()}s",
            body={
                "apiVersion": "authorization.k8s.io/v1",
                "kind": kind,
                "spec": {**spec, "resourceAttributes": {key: value for key, value in attributes.items() if value}},
            },
        )
        return bool(review.get("status", {}).get("allowed"))


async def read_cluster(api: Api, settings: Settings, *, node_name: str) -> ClusterState:
    """Everything that can be seen of a cluster, or of one node of it. Never raises ApiError."""
    looker = _Looker(api, settings, node_name=node_name)
    basics: dict[str, Any] = {
        "driver_name": settings.driver_name,
        "node_name": node_name,
        "partitioning": settings.partitioning,
        "shares": settings.shares,
        "device_status": settings.device_status,
        "now": datetime.now(UTC),
    }
    version = await looker.try_get("version", "/version")
    if version is None:
        return ClusterState(**basics, unreadable=looker.unreadable)
    group = await looker.try_get("api_versions", "/apis/resource.k8s.io")
    selector = f"spec.driver={settings.driver_name}" + (f",spec.nodeName={node_name}" if node_name else "")
    slices = await looker.items("slices", f"{RESOURCE}/resourceslices", {"fieldSelector": selector})
    own_pods = await looker.items("own_pods", "/api/v1/pods", {"labelSelector": POD_LABEL})
    nodes = await looker.nodes(slices, own_pods)
    classes = await looker.items("classes", f"{RESOURCE}/deviceclasses")
    pods = await looker.items("pods", "/api/v1/pods")
    if pods is not None and node_name:  # a pod that waits for a node may be waiting for this one
        pods = tuple(pod for pod in pods if pod["spec"].get("nodeName") in {None, "", node_name})
    events: list[Object] = []
    for reason in ("FailedPrepareDynamicResources", "Failed"):
        found = await looker.items("events", "/api/v1/events", {"fieldSelector": f"reason={reason}"})
        events += [event for event in found or () if reason != "Failed" or "CDI" in event.get("message", "")]
    gates, server_time = await looker.gates()
    subject, bound, access = await looker.access(own_pods)
    basics["now"] = datetime.now(UTC)  # as close as can be to the moment of the server's
    selected, not_evaluated = _selected(settings.driver_name, classes, slices)
    return ClusterState(
        **basics,
        server_time=server_time,
        version=str(version.get("gitVersion", "")),
        api_versions=tuple(entry["version"] for entry in group.get("versions", ())) if group is not None else None,
        gates=gates,
        subject=subject,
        node_bound=bound,
        access=access,
        nodes=nodes,
        slices=slices,
        classes=classes,
        claims=await looker.items("claims", f"{RESOURCE}/resourceclaims"),
        pods=pods,
        rules=await looker.rules(),
        events=tuple(events) if "events" not in looker.unreadable else None,
        selected=selected,
        not_evaluated=not_evaluated,
        unreadable=looker.unreadable,
    )


def _reason(error: ApiError) -> str:
    """Why something could not be read, for people; that the driver may not read much is as it should be."""
    return "these credentials may not (an administrator's may)" if error.status == 403 else str(error)


def _probe_slice(driver: str, node: str) -> dict[str, Any]:
    """A slice with a field of every feature that the driver uses."""
    policy = {"default": "1", "validRange": {"min": "1", "step": "1", "max": "2"}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        # The last name that the admission policy takes: of a slice that no node is likely to have.
        "metadata": {"name": slice_name(0x7F, driver_name=driver, node_name=node)},
        "spec": {
            "driver": driver,
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 2},
            "devices": [
                {
                    "name": "probe",
                    "taints": [{"key": f"{driver}/probe", "effect": "NoSchedule"}],
                    "consumesCounters": [{"counterSet": "probe", "counters": {"probe": {"value": "1"}}}],
                    "allowMultipleAllocations": True,
                    "capacity": {"probe": {"value": "2", "requestPolicy": policy}},
                }
            ],
        },
    }


def _kept(spec: Object) -> dict[str, bool]:
    [device] = spec["devices"]
    return {
        "DRADeviceTaints": bool(device.get("taints")),
        "DRAPartitionableDevices": bool(device.get("consumesCounters")),
        "DRAConsumableCapacity": bool(device.get("allowMultipleAllocations")),
    }


def _account(pod: Object) -> str:
    account = pod["spec"].get("serviceAccountName") or "default"
    return f"system:serviceaccount:{pod['metadata']['namespace']}:{account}"


def _groups(name: str) -> list[str]:
    namespace = name.split(":")[2]
    return ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]


def _selected(
    driver: str, classes: tuple[Object, ...] | None, slices: tuple[Object, ...] | None
) -> tuple[dict[str, int], dict[str, str]]:
    """How many devices each class of ours selects, or why that is not known; CEL comes with the embedded cluster."""
    ours = [found for found in classes or () if driver in class_text(found)]
    try:
        from driver.sim.scheduler.cel import CelError, selector
    except ImportError as error:
        return {}, {found["metadata"]["name"]: f"CEL cannot be evaluated here: {error}" for found in ours}
    devices = json.loads(json.dumps([one for found in slices or () for one in found["spec"].get("devices") or ()]))
    selected: dict[str, int] = {}
    not_evaluated: dict[str, str] = {}
    for found in ours:
        name = found["metadata"]["name"]
        expressions = [one["cel"]["expression"] for one in found["spec"].get("selectors") or () if "cel" in one]
        try:
            selected[name] = sum(
                all(selector(text).matches(driver, device) for text in expressions) for device in devices
            )
        except CelError as error:
            not_evaluated[name] = str(error)
    return selected, not_evaluated
