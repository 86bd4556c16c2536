"""Merge, JSON and strategic merge patches."""

from __future__ import annotations

import copy
from typing import Any

import jsonpatch
import jsonpointer

from driver.sim.apiserver import schema

JSON = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
TYPES = (JSON, MERGE, STRATEGIC, APPLY)


class PatchError(Exception):
    """A patch that cannot be applied."""

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code


def patched(definition: str, content_type: str, current: dict[str, Any], body: Any) -> Any:
    """The object after the patch; neither argument is changed. Raises PatchError."""
    if content_type == JSON:
        return _json_patch(current, body)
    if not isinstance(body, dict):
        raise PatchError("the patch must be a JSON object")
    if content_type == MERGE:
        return merge_patch(copy.deepcopy(current), body)
    types = schema.schema()
    return _strategic(types, types.node(definition), copy.deepcopy(current), body)


def _json_patch(current: dict[str, Any], body: Any) -> Any:
    if not isinstance(body, list):
        raise PatchError("error decoding patch: a list of operations is expected")
    try:
        return jsonpatch.apply_patch(current, body)
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError, KeyError) as error:
        raise PatchError("the server rejected our request due to an error in our request", 422) from error


def merge_patch(current: Any, change: Any) -> Any:
    """RFC 7386."""
    if not isinstance(change, dict):
        return change
    result = current if isinstance(current, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


_DELETE_FROM = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"


def _strategic(types: schema.Schema, node: schema.Node, current: Any, change: Any) -> Any:
    """Merge ``change`` into ``current`` (which is used up)."""
    if not isinstance(change, dict):
        return change
    directive = change.get("$patch")
    if directive == "replace":
        return {key: value for key, value in change.items() if key != "$patch"}
    if directive == "delete":
        return {}
    result = current if isinstance(current, dict) else {}
    if "$retainKeys" in change:
        result = {key: value for key, value in result.items() if key in change["$retainKeys"]}
    for key, value in change.items():
        if key.startswith(_DELETE_FROM):
            name = key.removeprefix(_DELETE_FROM)
            if name in result:
                result[name] = [item for item in result[name] if item not in value]
    before = {key: value for key, value in result.items() if isinstance(value, list)}
    orders = {key.removeprefix(_ORDER): value for key, value in change.items() if key.startswith(_ORDER)}
    for key, value in change.items():
        if key.startswith("$"):
            continue
        child = types.child(node, key) or schema.ANY
        if value is None:
            result.pop(key, None)
        elif isinstance(value, list):
            result[key] = _strategic_list(types, child, result.get(key) or [], value)
            if "merge" in child.strategies and child.merge_key:
                orders.setdefault(key, value)
        elif child.kind in {"opaque", "any"} or "replace" in child.strategies:
            result[key] = value if "replace" in child.strategies else merge_patch(result.get(key), value)
        else:
            result[key] = _strategic(types, child, result.get(key), value)
    for key, order in orders.items():
        if key in result:
            result[key] = _reorder(types.child(node, key) or schema.ANY, result[key], before.get(key, []), order)
    return result


def _strategic_list(types: schema.Schema, node: schema.Node, current: list[Any], change: list[Any]) -> list[Any]:
    if "merge" not in node.strategies:
        return _plain(change)
    if not node.merge_key:
        return current + [item for item in change if item not in current]
    key = node.merge_key
    item_node = types.item(node)
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in change):
        return [item for item in change if "$patch" not in item]
    result = list(current)
    for item in change:
        if not isinstance(item, dict):
            raise PatchError(f"the items of a list that is merged by {key!r} must be objects")
        if key not in item:
            raise PatchError(f"map: {item} does not contain declared merge key: {key}", 422)
        index = next((i for i, known in enumerate(result) if known.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            result = [known for known in result if known.get(key) != item[key]]
        elif index is None:
            result.append(_strategic(types, item_node, {}, item))
        else:
            result[index] = _strategic(types, item_node, result[index], item)
    return result


def _plain(items: list[Any]) -> list[Any]:
    return [item for item in items if not (isinstance(item, dict) and "$patch" in item)]


def _reorder(node: schema.Node, items: list[Any], before: list[Any], order: list[Any]) -> list[Any]:
    """Put items in the order that the client has; those that it does not know keep their place as well as they can."""
    key = node.merge_key

    def identity(item: Any) -> Any:
        return item.get(key) if key and isinstance(item, dict) else item

    wanted, server = [identity(item) for item in order], [identity(item) for item in before]
    left = sorted((i for i in items if identity(i) in wanted), key=lambda item: wanted.index(identity(item)))
    right = [item for item in items if identity(item) not in wanted]
    result = []
    while left and right:
        here = identity(left[0])
        first = here not in server or server.index(here) < server.index(identity(right[0]))
        result.append((left if first else right).pop(0))
    return result + left + right
