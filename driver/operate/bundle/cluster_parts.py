"""What the API server says of a node: as much as these credentials may read."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driver.kube import LARGE_BODY, Api, ApiError, claim_path
from driver.operate.bundle.archive import Found
from driver.operate.bundle.keep import CLAIM, CLASS, EVENT, NODE, POD, SLICE, kept
from driver.operate.doctor.examine import judge_cluster
from driver.operate.doctor.read_cluster import POD_LABEL, read_cluster
from driver.operate.doctor.render import as_plain_text
from driver.operate.node_view import read_records

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from driver.node import Settings
    from driver.operate.doctor.state import ClusterState

NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
LINES = 5000
"""Of the log of a container."""
MOST = 500
"""Claims that are asked for one by one."""


async def read_objects(settings: Settings, node_name: str) -> Found:
    """Slices, claims, pods, classes and the Node; what the doctor finds; the logs of the driver's pods.

    Raises ConfigError: there are no credentials.
    """
    found = Found()
    async with await Api.connect(settings.kubeconfig, max_body=LARGE_BODY) as api:
        seen = await read_cluster(api, settings, node_name=node_name)
        found.files["doctor-cluster.txt"] = as_plain_text(judge_cluster(seen))
        found.missing |= {f"cluster/{what}": why for what, why in seen.unreadable.items()}
        if seen.version:
            found.add_json("cluster/version.json", {"apiServer": seen.version, "gates": dict(seen.gates)})
            claims = await _claims(api, settings, seen, found)
            _add_objects(found, seen, claims)
            found.update(await _read_pod_logs(api, node_name))
    return found


def _add_objects(found: Found, seen: ClusterState, claims: list[Mapping[str, Any]]) -> None:
    users = {one.get("uid") for claim in claims for one in (claim.get("status") or {}).get("reservedFor") or ()}
    pods = [pod for pod in seen.pods or () if pod["metadata"].get("uid") in users or _is_driver(pod)]
    for name, objects, shape in (
        ("slices", seen.slices, SLICE),
        ("claims", claims, CLAIM),
        ("pods", pods, POD),
        ("classes", seen.classes, CLASS),
        ("nodes", seen.nodes, NODE),
        ("events", seen.events, EVENT),
    ):
        if objects:
            found.add_json(f"cluster/{name}.json", kept(objects, shape))


def _is_driver(pod: Mapping[str, Any]) -> bool:
    label, _, value = POD_LABEL.partition("=")
    return (pod["metadata"].get("labels") or {}).get(label) == value


async def _claims(api: Api, settings: Settings, seen: ClusterState, found: Found) -> list[Mapping[str, Any]]:
    """The claims that have something of ours on this node; those with a record where not all may be listed."""
    if seen.claims is not None:
        return [claim for claim in seen.claims if _concerns(claim, settings.driver_name, seen.node_name)]
    claims: list[Mapping[str, Any]] = []
    for record in read_records(settings.plugin_dir, warn=lambda _: None)[:MOST]:
        try:
            claims.append(await api.get(claim_path(record.claim.namespace, record.claim.name)))
        except ApiError as error:
            found.missing[f"cluster/claims.json, {record.claim.uid} ({record.claim})"] = str(error)
    return claims


def _concerns(claim: Mapping[str, Any], driver: str, node_name: str) -> bool:
    return any(result.get("driver") == driver and node_name in {"", result.get("pool")} for result in _results(claim))


def _results(claim: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    allocation = (claim.get("status") or {}).get("allocation") or {}
    yield from (allocation.get("devices") or {}).get("results") or ()


async def _read_pod_logs(api: Api, node_name: str) -> Found:
    """Of all instances where pods can be listed, of our own pod where not."""
    found = Found()
    params = {"labelSelector": POD_LABEL} | ({"fieldSelector": f"spec.nodeName={node_name}"} if node_name else {})
    try:
        listed = (await api.get("/api/v1/pods", params)).get("items") or []
        pods = [(pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in listed]
    except ApiError:
        pods = _own_pod()
    for namespace, name in pods:
        for previous in ("false", "true"):
            params = {"tailLines": str(LINES), "previous": previous}
            file = f"logs/{namespace}-{name}{'-before-its-restart' if previous == 'true' else ''}.log"
            try:
                found.files[file] = await api.get_text(f"/api/v1/namespaces/{namespace}/pods/{name}/log", params)
            except ApiError as error:
                if previous == "false":
                    by_hand = f"kubectl -n {namespace} logs {name} --tail {LINES}"
                    found.missing[file] = f"these credentials get none ({error.status or error}); yours may: {by_hand}"
                    break
    return found


def _own_pod() -> list[tuple[str, str]]:
    try:
        return [(NAMESPACE.read_text(encoding="utf-8").strip(), os.environ.get("HOSTNAME") or socket.gethostname())]
    except OSError:
        return []
