"""The API's own schema: decoding as the real server does it (unknown fields, wrong types, pruning), and merge keys.

The data is the OpenAPI document of a Kubernetes release as the package kubernetes-validate has it; its code is unused.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from driver.sim import quantity

_REF = "#/$defs/"
_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
TIME = _META + "Time"
MICRO_TIME = _META + "MicroTime"
OPAQUE = {"io.k8s.apimachinery.pkg.runtime.RawExtension", _META + "FieldsV1"}


class SchemaError(Exception):
    """The schema data is not where it is expected."""


def definitions(release: str) -> dict[str, Any]:
    """All definitions of a release, ``1.36.0``, by their OpenAPI name. Raises SchemaError."""
    spec = importlib.util.find_spec("kubernetes_validate")
    if spec is None or not spec.submodule_search_locations:
        raise SchemaError("the package kubernetes-validate is missing: pip install '.[sim]' in a clone")
    root = Path(spec.submodule_search_locations[0]) / "kubernetes-json-schema"
    path = root / f"v{release}-local" / "_definitions.json"
    if not path.exists():
        raise SchemaError(f"{path} is missing: a kubernetes-validate that carries Kubernetes {release} is expected")
    found: dict[str, Any] = json.loads(path.read_bytes())["$defs"]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One type of the schema, resolved: what a value may be and how lists and maps in it merge."""

    kind: str
    """object, map, list, string, integer, number, boolean, quantity, time, int-or-string, opaque, any."""
    name: str = ""
    properties: dict[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    item: str = ""
    merge_key: str = ""
    strategies: tuple[str, ...] = ()


class Schema:
    """Looks types up by a pointer: a definition's name, or ``name/properties/field`` for an inline type."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._nodes: dict[str, Node] = {}

    def node(self, pointer: str) -> Node:
        """The type at a pointer."""
        found = self._nodes.get(pointer)
        if found is None:
            found = self._nodes[pointer] = self._build(pointer)
        return found

    def child(self, node: Node, key: str) -> Node | None:
        """The type of a field or of a map's values; None for an unknown field."""
        if node.kind == "object":
            pointer = node.properties.get(key)
            return self.node(pointer) if pointer is not None else None
        return self.node(node.item) if node.item else ANY

    def item(self, node: Node) -> Node:
        """The type of a list's items."""
        return self.node(node.item) if node.item else ANY

    def _raw(self, pointer: str) -> dict[str, Any]:
        parts = pointer.split("\x00")
        raw: Any = self._document[parts[0]]
        for part in parts[1:]:
            raw = raw[part]
        return raw  # type: ignore[no-any-return]

    def _build(self, pointer: str) -> Node:
        raw = self._raw(pointer)
        ref = raw.get("$ref", "")
        if ref:
            target = self.node(ref.removeprefix(_REF))
            extra = _merge_rules(raw)
            if not extra:
                return target
            base = {name: getattr(target, name) for name in Node.__dataclass_fields__}
            return Node(**{**base, **extra})
        special = _SPECIAL.get(pointer)
        if special:
            return Node(kind=special, name=pointer)
        if pointer in OPAQUE:
            return Node(kind="opaque", name=pointer)
        types = raw.get("type") or []
        kind = next((t for t in ([types] if isinstance(types, str) else types) if t != "null"), "any")
        rules = _merge_rules(raw)
        if kind == "array":
            return Node(kind="list", name=pointer, item=f"{pointer}\x00items", **rules)
        if kind == "object" and raw.get("properties"):
            fields = {key: f"{pointer}\x00properties\x00{key}" for key in raw["properties"]}
            return Node(
                kind="object", name=pointer, properties=fields, required=tuple(raw.get("required") or ()), **rules
            )
        if kind == "object":
            values = raw.get("additionalProperties")
            item = f"{pointer}\x00additionalProperties" if isinstance(values, dict) else ""
            return Node(kind="map", name=pointer, item=item, **rules)
        return Node(kind=kind, name=pointer)


ANY = Node(kind="any")
_SPECIAL = {QUANTITY: "quantity", INT_OR_STRING: "int-or-string", TIME: "time", MICRO_TIME: "time"}


def _merge_rules(raw: dict[str, Any]) -> dict[str, Any]:
    rules: dict[str, Any] = {}
    if raw.get("x-kubernetes-patch-merge-key"):
        rules["merge_key"] = raw["x-kubernetes-patch-merge-key"]
    if raw.get("x-kubernetes-patch-strategy"):
        rules["strategies"] = tuple(raw["x-kubernetes-patch-strategy"].split(","))
    return rules


@lru_cache
def schema(release: str) -> Schema:
    """The schema of a release, built type by type on first use. Raises SchemaError."""
    return Schema(definitions(release))


@dataclass(slots=True)
class Decoded:
    """A decoded object and what was odd about it."""

    obj: Any
    unknown: list[str] = field(default_factory=list)
    """Paths of fields that the API does not have; they are not in ``obj``."""
    errors: list[str] = field(default_factory=list)
    """Wrong types. With any of these ``obj`` must not be used."""


def decode(types: Schema, pointer: str, value: Any) -> Decoded:
    """Check and canonicalise a value: unknown fields and nulls are dropped, quantities and times normalised."""
    decoded = Decoded(None)
    decoded.obj = _Decoder(types, decoded).walk(types.node(pointer), value, "")
    return decoded


_INT64 = 2**63
_SCALARS: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "int-or-string": int | str,
}
"""By kind: the types that it may have in JSON."""


class _Decoder:
    def __init__(self, types: Schema, out: Decoded) -> None:
        self._types = types
        self._out = out

    def _wrong(self, path: str, value: Any, wanted: str) -> None:
        self._out.errors.append(f"{path}: {wanted} is expected, and it is {json.dumps(value, default=str)[:80]}")

    def walk(self, node: Node, value: Any, path: str) -> Any:
        if node.kind in {"any", "opaque"}:  # the rules say what a raw extension may be
            return copy.deepcopy(value)
        if node.kind in _SCALARS:
            return self._scalar(node, value, path)
        return getattr(self, f"_{node.kind}")(node, value, path)

    def _object(self, node: Node, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            self._wrong(path, value, "an object")
            return None
        result: dict[str, Any] = {}
        for key, child in value.items():
            where = f"{path}.{key}" if path else key
            pointer = node.properties.get(key)
            if pointer is None:
                self._out.unknown.append(where)
            elif child is not None:
                result[key] = self.walk(self._types.node(pointer), child, where)
        for key in node.required:  # a quantity that is missing is zero, except where it is a pointer
            if key not in result and self._types.node(node.properties[key]).kind == "quantity" and key != "min":
                result[key] = "0"
        return result

    def _map(self, node: Node, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            self._wrong(path, value, "an object")
            return None
        item = self._types.item(node)
        result = {}
        for key, child in value.items():
            if child is None:
                if item.kind == "string":
                    result[key] = ""
                continue
            result[key] = self.walk(item, child, f"{path}.{key}")
        return result

    def _list(self, node: Node, value: Any, path: str) -> Any:
        if not isinstance(value, list):
            self._wrong(path, value, "a list")
            return None
        item = self._types.item(node)
        return [self.walk(item, child, f"{path}[{index}]") for index, child in enumerate(value)]

    def _scalar(self, node: Node, value: Any, path: str) -> Any:
        types = _SCALARS[node.kind]
        if node.kind == "integer" and isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            return int(value)
        good = isinstance(value, types) and isinstance(value, bool) is (node.kind == "boolean")
        if not good or (node.kind == "integer" and not -_INT64 <= value < _INT64):
            self._wrong(path, value, f"a value of type {node.kind}")
        return value

    def _quantity(self, _node: Node, value: Any, _path: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            self._out.errors.append(quantity.PATTERN_ERROR)
            return value
        try:
            return quantity.canonical(str(value))
        except ValueError as error:
            self._out.errors.append(str(error))
            return value

    def _time(self, node: Node, value: Any, path: str) -> Any:
        try:
            moment = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            moment = None
        if moment is None or moment.tzinfo is None or "T" not in value:
            self._wrong(path, value, "a time like 2006-01-02T15:04:05Z")
            return value
        return moment.astimezone(UTC).strftime(f"%Y-%m-%dT%H:%M:%S{'.%f' if node.name == MICRO_TIME else ''}Z")
