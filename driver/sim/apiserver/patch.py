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


def patched(types: schema.Schema, definition: str, content_type: str, current: dict[str, Any], body: Any) -> Any:
    """The object after the patch; neither argument is changed. Raises PatchError."""
    if not isinstance(body, dict):
        raise PatchError("the patch must be a JSON object")
    if content_type == MERGE:
        return merge_patch(copy.deepcopy(current), body)
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


def _strategic(types: schema.Schema, node: schema.Node, current: Any, change: Any) -> Any:
    """Merge ``change`` into ``current`` (which is used up)."""
    if not isinstance(change, dict):
        return change
    result = current if isinstance(current, dict) else {}
    if "$retainKeys" in change:
        result = {key: value for key, value in result.items() if key in change["$retainKeys"]}
    for key, value in change.items():
        if key.startswith("$"):  # other directives of kubectl tell of an order, or of lists that it leaves alone here
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
        return change
    if not node.merge_key:
        return current + [item for item in change if item not in current]
    key = node.merge_key
    item_node = types.item(node)
    result = list(current)
    for item in change:
        if not isinstance(item, dict) or key not in item:
            raise PatchError(f"{item} has not the key {key} by which the list is merged")
        index = next((i for i, known in enumerate(result) if known.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            result = [known for known in result if known.get(key) != item[key]]
        elif index is None:
            result.append(_strategic(types, item_node, {}, item))
        else:
            result[index] = _strategic(types, item_node, result[index], item)
    return result
