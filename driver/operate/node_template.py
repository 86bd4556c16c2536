"""A node's slices as those of a node like it that does not exist yet: what an autoscaler is to know. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_NIL = "00000000-0000-0000-0000-"
# Attributes whose values belong to one piece of hardware, and what stands for a value, by its number.
_STAND_INS = {
    "uuid": "{prefix}-" + _NIL + "{number:012d}",
    "parentUUID": "{prefix}-" + _NIL + "{number:012d}",
    "fabricClique": _NIL + "000000000000.{number}",
}


def as_template(documents: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """ResourceSlices without what only existing hardware has; ``documents`` stay as they are.

    UUIDs and NVLink cliques become placeholders, the same one for the same value: devices keep every attribute (Cluster
    Autoscaler compares their names with those of real nodes), and what claims may want to be the same or distinct stays
    so. Taints are left out: a new node has none.
    """
    known: dict[str, dict[str, int]] = {}
    return [_slice(document, known) for document in documents]


def _slice(document: dict[str, Any], known: dict[str, dict[str, int]]) -> dict[str, Any]:
    spec = document["spec"]
    if "devices" not in spec:
        return document
    return {**document, "spec": {**spec, "devices": [_device(device, known) for device in spec["devices"]]}}


def _device(device: dict[str, Any], known: dict[str, dict[str, int]]) -> dict[str, Any]:
    attributes = dict(device["attributes"])
    for name in _STAND_INS.keys() & attributes.keys():
        attributes[name] = {"string": _stand_in(name, attributes[name]["string"], known)}
    return {key: value for key, value in device.items() if key != "taints"} | {"attributes": attributes}


def _stand_in(name: str, value: str, known: dict[str, dict[str, int]]) -> str:
    prefix = value.partition("-")[0] if "UUID" in name.upper() else name  # GPU or MIG
    numbers = known.setdefault(prefix, {})
    return _STAND_INS[name].format(prefix=prefix, number=numbers.setdefault(value, len(numbers)))
