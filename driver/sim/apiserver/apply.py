"""Server-side apply: who owns which field, conflicts, and merging by the schema's list-map keys."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver import schema
from driver.sim.apiserver.errors import apply_conflict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from driver.sim.apiserver.resources import Resource

    Object = dict[str, Any]

Path = tuple[str, ...]
"""Elements as in FieldsV1: ``f:<field>``, ``k:<JSON of the key>`` for a list-map's item, ``v:<JSON>`` for a set's."""
Fields = frozenset[Path]

_ITEM = object()
"""Value of the path of a list item itself: the item is there, whatever is in it."""
_NOT_OWNED = {
    ("f:apiVersion",),
    ("f:kind",),
    *(
        ("f:metadata", f"f:{name}")
        for name in [
            "name",
            "namespace",
            "generateName",
            "uid",
            "creationTimestamp",
            "generation",
            "resourceVersion",
            "managedFields",
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ]
    ),
}


@dataclass(slots=True)
class Entry:
    """One line of metadata.managedFields."""

    manager: str
    operation: str
    version: str
    subresource: str
    time: str
    fields: set[Path] = field(default_factory=set)

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What makes two entries the same manager."""
        return self.manager, self.operation, self.version, self.subresource


# -- flat view of an object -----------------------------------------------------------------------------------------


def _key(identity: tuple[tuple[str, Any], ...]) -> str:
    return "k:" + json.dumps(dict(identity), separators=(",", ":"), sort_keys=True)


def _flatten(types: schema.Schema, node: schema.Node, value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if node.kind in {"object", "map"} and isinstance(value, dict) and not node.atomic:
        if not value and len(path) > 1:
            yield path, {}
        for key, item in value.items():
            child = types.child(node, key)
            yield from _flatten(types, child or schema.ANY, item, (*path, f"f:{key}"))
    elif node.kind == "list" and node.keys and not node.atomic and isinstance(value, list):
        for item in value:
            if node.keys == ("",):
                yield (*path, "v:" + json.dumps(item)), item
            else:
                where = (*path, _key(schema.item_key(node, item)))
                yield where, _ITEM
                yield from _flatten(types, types.item(node), item, where)
    else:
        yield path, value


def _flat(resource: Resource, obj: Object) -> dict[Path, Any]:
    types = schema.schema()
    found = _flatten(types, types.node(resource.definition), obj, ())
    return {path: value for path, value in found if path and path[:2] not in _NOT_OWNED and path[:1] not in _NOT_OWNED}


def _in_reach(resource: Resource, path: Path, subresource: str) -> bool:
    """Whether a write to this endpoint can change the field at all."""
    if subresource == "status":
        return path[0] not in {"f:spec", "f:metadata"}
    return not (resource.status and path[0] == "f:status")


def field_set(resource: Resource, obj: Object, subresource: str) -> Fields:
    """All fields that an applied object has."""
    return frozenset(path for path in _flat(resource, obj) if _in_reach(resource, path, subresource))


# -- managedFields ---------------------------------------------------------------------------------------------------


def _parse(tree: Object, path: Path = ()) -> Iterator[Path]:
    if not tree and path:
        yield path
    for element, below in tree.items():
        if element == ".":
            yield path
        else:
            yield from _parse(below, (*path, element))


def _render(paths: set[Path]) -> Object:
    tree: Object = {}
    for path in sorted(paths):
        at = tree
        for element in path:
            at = at.setdefault(element, {})
    for path in paths:  # an owned node that has owned nodes below it is marked with a dot
        at = tree
        for element in path:
            at = at[element]
        if at:
            at["."] = {}
    return tree


def entries(obj: Object) -> list[Entry]:
    """The managers of an object."""
    return [
        Entry(
            manager=item.get("manager", ""),
            operation=item.get("operation", ""),
            version=item.get("apiVersion", ""),
            subresource=item.get("subresource", ""),
            time=item.get("time", ""),
            fields=set(_parse(item.get("fieldsV1") or {})),
        )
        for item in obj["metadata"].get("managedFields") or []
    ]


def _store(obj: Object, managers: list[Entry]) -> None:
    rendered = []
    for entry in sorted(managers, key=lambda item: item.operation):  # Apply stands first
        if not entry.fields:
            continue
        item = {
            "manager": entry.manager,
            "operation": entry.operation,
            "apiVersion": entry.version,
            "time": entry.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": _render(entry.fields),
        }
        if entry.subresource:
            item["subresource"] = entry.subresource
        rendered.append(item)
    if rendered:
        obj["metadata"]["managedFields"] = rendered
    else:
        obj["metadata"].pop("managedFields", None)


def _entry(managers: list[Entry], resource: Resource, manager: str, operation: str, subresource: str) -> Entry:
    wanted = (manager, operation, resource.group_version, subresource)
    for entry in managers:
        if entry.identity == wanted:
            return entry
    made = Entry(manager, operation, resource.group_version, subresource, "")
    managers.append(made)
    return made


def own(resource: Resource, obj: Object, fields: Fields, manager: str, subresource: str, now: str) -> None:
    """Make one manager the owner by apply of all ``fields`` of a new object, and nobody else."""
    made = Entry(manager, "Apply", resource.group_version, subresource, now, set(fields))
    _store(obj, [made])


def track(
    resource: Resource, old: Object | None, new: Object, manager: str, operation: str, subresource: str, now: str
) -> None:
    """After a write that was no apply: its manager owns what it changed, and nobody owns what is gone."""
    after = _flat(resource, new)
    before = _flat(resource, old) if old is not None else {}
    changed = {path for path, value in after.items() if path not in before or before[path] != value}
    if not changed and len(before) == len(after):
        return
    managers = entries(new) if old is not None else []
    mine = _entry(managers, resource, manager, operation, subresource)
    for entry in managers:
        entry.fields = {path for path in entry.fields if path in after}
        if entry is not mine:
            entry.fields -= {path for path in changed if after[path] is not _ITEM}
    if changed - mine.fields:
        mine.fields |= changed
        mine.time = now
    elif changed:
        mine.time = now
    _store(new, managers)


# -- applying --------------------------------------------------------------------------------------------------------


def merge(
    resource: Resource, live: Object, applied: Object, *, manager: str, force: bool, subresource: str, now: str
) -> Object:
    """The object after an apply. Raises StatusError 409 for conflicts without ``force``."""
    wanted = {p: v for p, v in _flat(resource, applied).items() if _in_reach(resource, p, subresource)}
    present = _flat(resource, live)
    managers = entries(live)
    mine = _entry(managers, resource, manager, "Apply", subresource)
    conflicts: list[tuple[str, Path]] = []
    for entry in managers:
        if entry is mine:
            continue
        clash = [
            path
            for path in sorted(entry.fields & wanted.keys())
            if wanted[path] is not _ITEM and path in present and present[path] != wanted[path]
        ]
        conflicts += [(_describe(entry), path) for path in clash]
        if force:
            entry.fields -= set(clash)
    if conflicts and not force:
        raise apply_conflict([(name, _readable(path)) for name, path in conflicts])
    types = schema.schema()
    root = types.node(resource.definition)
    result: Object = _overlay(types, root, copy.deepcopy(live), applied)
    others = {path for entry in managers if entry is not mine for path in entry.fields}
    for path in sorted(mine.fields - wanted.keys(), key=len):
        if not any(other[: len(path)] == path for other in others):
            _drop(types, root, result, path)
    if mine.fields != wanted.keys():
        mine.fields = set(wanted)
        mine.time = now
    _store(result, managers)
    return result


def _overlay(types: schema.Schema, node: schema.Node, live: Any, applied: Any) -> Any:
    if node.kind in {"object", "map"} and not node.atomic and isinstance(applied, dict) and isinstance(live, dict):
        for key, value in applied.items():
            child = types.child(node, key) or schema.ANY
            live[key] = _overlay(types, child, live[key], value) if key in live else copy.deepcopy(value)
        return live
    if node.kind == "list" and node.keys and not node.atomic and isinstance(applied, list) and isinstance(live, list):
        if node.keys == ("",):
            return live + [item for item in applied if item not in live]
        places = {schema.item_key(node, item): index for index, item in enumerate(live)}
        for item in applied:
            index = places.get(schema.item_key(node, item))
            if index is None:
                live.append(copy.deepcopy(item))
            else:
                live[index] = _overlay(types, types.item(node), live[index], item)
        return live
    return copy.deepcopy(applied)


def _drop(types: schema.Schema, node: schema.Node, value: Any, path: Path) -> None:
    """Remove what is at the path, if it is there."""
    element, rest = path[0], path[1:]
    if element.startswith("f:") and isinstance(value, dict):
        name = element[2:]
        if name not in value:
            return
        if rest:
            _drop(types, types.child(node, name) or schema.ANY, value[name], rest)
        else:
            del value[name]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found = "v:" + json.dumps(item) if element.startswith("v:") else _key(schema.item_key(node, item))
            if found == element:
                if rest:
                    _drop(types, types.item(node), item, rest)
                else:
                    del value[index]
                return


def _describe(entry: Entry) -> str:
    """The manager as a conflict names it."""
    where = f' with subresource "{entry.subresource}"' if entry.subresource else ""
    if entry.operation == "Apply":
        return f'"{entry.manager}"{where}'
    return f'"{entry.manager}"{where} using {entry.version}'


def _readable(path: Path) -> str:
    """``.spec.containers[name="a"].image``."""
    text = ""
    for element in path:
        kind, _, value = element.partition(":")
        if kind == "f":
            text += f".{value}"
        elif kind == "k":
            text += "[" + ",".join(f"{key}={json.dumps(part)}" for key, part in json.loads(value).items()) + "]"
        else:
            text += f"[={value}]"
    return text


def same(new: Object, old: Object) -> bool:
    """Whether a write would change nothing but versions and times of ownership."""
    if {k: v for k, v in new.items() if k != "metadata"} != {k: v for k, v in old.items() if k != "metadata"}:
        return False

    def plain(obj: Object) -> Object:
        meta = {k: v for k, v in obj["metadata"].items() if k not in {"managedFields", "resourceVersion"}}
        fields = obj["metadata"].get("managedFields") or []
        return {**meta, "managedFields": [{k: v for k, v in item.items() if k != "time"} for item in fields]}

    return plain(new) == plain(old)
