"""The model for machines: one JSON document. Pure."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from driver.base.quantity import format_quantity
from driver.cluster.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from driver.cluster.fleet import Gpu, Holder, Node, Part, Trouble, Usage
    from driver.cluster.follow import View
    from driver.cluster.objects import Amounts


def shown(view: View, namespace: str = "") -> Fleet:
    """What is shown of a view: with a namespace, the GPUs on which it has something, whoever else is there.

    What is free is told as it is, but not where nobody knows it.
    """
    fleet = view.fleet
    if namespace:
        nodes = (_of_namespace(node, namespace) for node in fleet.nodes)
        fleet = Fleet(nodes=tuple(node for node in nodes if node.gpus or node.lost))
    if not view.knows_holders:
        fleet = Fleet(
            nodes=tuple(
                replace(node, room={}, gpus=tuple(replace(gpu, room={}) for gpu in node.gpus)) for node in fleet.nodes
            )
        )
    return fleet


def _of_namespace(node: Node, namespace: str) -> Node:
    gpus = tuple(
        gpu for gpu in node.gpus if any(holder.namespace == namespace for part in gpu.parts for holder in part.holders)
    )
    lost = tuple(holder for holder in node.lost if holder.namespace == namespace)
    usage = {name: usage for name, usage in node.usage.items() if name == namespace}
    return replace(node, gpus=gpus, lost=lost, usage=usage)


def as_dict(view: View, *, now: datetime, namespace: str = "") -> dict[str, Any]:
    """Everything that is known, with plain values: fractions as numbers, times as in the API.

    ``namespace``: see ``shown``; empty for all.
    """
    fleet = shown(view, namespace)
    return {
        "nodes": [_node(node) for node in fleet.nodes],
        "namespaces": [usage_of(name, usage, now) for name, usage in fleet.usage.items()],
        "room": dict(fleet.room),
        "missing": _reasons(view.missing),
        "behind": _reasons(view.behind),
    }


def usage_of(namespace: str, usage: Usage, now: datetime) -> dict[str, Any]:
    """A line of the summary."""
    return {
        "namespace": namespace,
        "holds": usage.holds,
        "gpus": _number(usage.gpus),
        "gpuHours": round(usage.hours(now), 3),
    }


def _reasons(errors: Mapping[str, Exception]) -> dict[str, str]:
    return {what: str(error) for what, error in errors.items()}


def _node(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "pool": node.pool,
        "problem": node.problem,
        "gpus": [_gpu(gpu) for gpu in node.gpus],
        "lost": [_holder(holder) for holder in node.lost],
        "room": dict(node.room),
    }


def _gpu(gpu: Gpu) -> dict[str, Any]:
    return {
        "name": gpu.name,
        "uuid": gpu.uuid,
        "product": gpu.product,
        "slots": gpu.slots,
        "held": _number(gpu.weight),
        "sick": gpu.is_sick,
        "troubles": [_trouble(trouble) for trouble in gpu.troubles],
        "parts": [_part(part) for part in gpu.parts],
        "room": dict(gpu.room),
    }


def _trouble(trouble: Trouble) -> dict[str, Any]:
    taint = trouble.taint
    return {
        "key": taint.key,
        "value": taint.value,
        "effect": taint.effect,
        "rule": taint.rule,
        "since": _time(taint.since),
        "devices": list(trouble.devices),
    }


def _part(part: Part) -> dict[str, Any]:
    return {
        "device": part.device.name,
        "kind": part.kind,
        "uuid": part.device.uuid,
        "slots": list(part.device.shape.slots),
        "weight": _number(part.weight),
        "shared": part.device.shape.shared,
        "left": _quantities(part.left),
        "holders": [_holder(holder) for holder in part.holders],
    }


def _holder(holder: Holder) -> dict[str, Any]:
    return {
        "namespace": holder.namespace,
        "claim": holder.claim[1],
        "request": holder.result.request,
        "device": holder.result.device,
        "pods": [{"name": name, "phase": phase} for name, phase in holder.pods],
        "since": _time(holder.since),
        "weight": _number(holder.weight),
        "admin": holder.result.admin,
        "share": holder.result.share_id,
        "consumed": _quantities(holder.result.consumed),
    }


def _quantities(amounts: Amounts) -> dict[str, str]:
    """Whole amounts; what is less than one of its kind is nothing."""
    return {name: format_quantity(max(0, int(amount))) for name, amount in amounts}


def _number(fraction: Fraction) -> float:
    return round(float(fraction), 6)


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat().replace("+00:00", "Z") if moment else None
