"""Merge and strategic merge patches. A server-side apply is a strategic merge here: nobody owns fields."""

from __future__ import annotations

import copy
from typing import Any

from driver.sim.apiserver import schema

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
TYPES = (MERGE, STRATEGIC, APPLY)


class PatchError(Exception):
    """A patch that cannot be applied."""

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code


def patched(definition: str, content_type: str, current: dict[str, Any], body: Any) -> Any:
    """The object after the patch; neither argument is changed. Raises PatchError."""
    if not isinstance(body, dict):
        raise PatchError("the patch must be a JSON object")
    if content_type == MERGE:
        return merge_patch(copy.deepcopy(current), body)
    types = schema.schema()
    return _strategic(types, types.node(definition), copy.deepcopy(current), body)


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
    for key, value in change.items():
        if key.startswith("$"):
            continue
        child = types.child(node, key) or schema.ANY
        if value is None:
            result.pop(key, None)
        elif isinstance(value, list):
            result[key] = _strategic_list(types, child, result.get(key) or [], value)
        elif child.kind in {"opaque", "any"} or "replace" in child.strategies:
            result[key] = value if "replace" in child.strategies else merge_patch(result.get(key), value)
        else:
            result[key] = _strategic(types, child, result.get(key), value)
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
