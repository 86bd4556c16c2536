"""What an answer has to look like before anybody relies on it. Each check raises a transient ApiError that says more.

What answers in the API server's place, a proxy or a server that is starting, may say anything in valid JSON.
"""

from __future__ import annotations

from typing import Any

from driver.kube.client import ApiError

MAX_DIGITS = 20
"""Of a resource version, which is a number of 64 bits."""


def odd(what: str, expected: str, found: Any) -> ApiError:
    """The error: ``found`` is named by its kind only, because it may be anything and of any size."""
    return ApiError(0, f"{what}: an odd answer: expected {expected}, found {type(found).__name__}")


def check_list(answer: Any, what: str) -> dict[str, Any]:
    """A list: its objects in ``items``, none left out, and a version from which it can be watched."""
    listing = _object(answer, what)
    version_of(listing, what)
    items = listing["items"] = [] if listing.get("items", ...) is None else listing.get("items")  # null: Go's empty
    if not isinstance(items, list):
        raise odd(what, "a list with 'items'", items)
    for item in items:
        check_object(item, f"{what}, an item")
    return listing


def check_object(answer: Any, what: str) -> dict[str, Any]:
    """An object with a name and a version."""
    obj = _object(answer, what)
    version_of(obj, what)
    for key, fallback in (("name", None), ("namespace", "")):
        if not isinstance(value := obj["metadata"].get(key, fallback), str):
            raise odd(what, f"a text as metadata.{key}", value)
    return obj


def check_event(answer: Any, what: str) -> dict[str, Any]:
    """An event of a watch: a type, and an object with a version, which only a bookmark's need not have a name."""
    event = _object(answer, what)
    kind, obj = event.get("type"), event.get("object")
    if kind == "ERROR":
        status = obj if isinstance(obj, dict) else {}
        code = status.get("code")
        raise ApiError(
            code if type(code) is int and code >= 400 else 500,
            f"{what}: {str(status.get('message'))[:500]}",
            reason=str(status.get("reason") or "")[:100],
        )
    if kind == "BOOKMARK":
        version_of(_object(obj, what), what)
    elif kind in ("ADDED", "MODIFIED", "DELETED"):  # not a set: it may be of a kind that has no hash
        check_object(obj, what)
    else:
        raise odd(what, "an event with a type that is known", kind)
    return event


def check_node(answer: Any, what: str) -> dict[str, Any]:
    """A Node with what it offers, if it says so."""
    node = check_object(answer, what)
    status = node.get("status")
    for part in (status, *(status.get(key) for key in ("capacity", "allocatable") if isinstance(status, dict))):
        if part is not None and not isinstance(part, dict):
            raise odd(what, "a Node's status with amounts by name", part)
    return node


def uid_of(answer: Any, what: str) -> str:
    """An object's UID."""
    metadata = _object(answer, what).get("metadata")
    uid = metadata.get("uid") if isinstance(metadata, dict) else metadata
    if not isinstance(uid, str) or not uid:
        raise odd(what, "an object with metadata.uid", uid)
    return uid


def version_of(obj: dict[str, Any], what: str) -> int:
    """The resource version of an object or a list; comparable since Kubernetes 1.35 (KEP-5504)."""
    metadata = obj.get("metadata")
    text = metadata.get("resourceVersion") if isinstance(metadata, dict) else metadata
    if not isinstance(text, str) or len(text) > MAX_DIGITS or not (text.isascii() and text.isdigit()):
        raise odd(what, "a number as metadata.resourceVersion", text)
    return int(text)


def _object(answer: Any, what: str) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise odd(what, "an object", answer)
    return answer
