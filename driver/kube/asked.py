"""What a request asks for, in the words that metrics and permissions have for it."""

from __future__ import annotations

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def verb_and_resource(method: str, path: str) -> tuple[str, str]:
    """Verb and resource of a request: ``("watch", "resourceslices")``. Pure; ``path`` is with its query.

    The resource of a path that is none of an object, such as ``/version``, is empty.
    """
    path, _, query = path.partition("?")
    parts = path.strip("/").split("/")
    below = parts[2:] if parts[0] == "api" else parts[3:]
    if below[:1] == ["namespaces"] and len(below) > 2:
        below = below[2:]
    resource, named, subresource = (*below, "", "", "")[:3]
    if subresource:
        resource = f"{resource}/{subresource}"
    if method != "GET":
        return _VERBS.get(method, method.lower()), resource
    if "watch=true" in query.split("&"):
        return "watch", resource
    return "get" if named or not resource else "list", resource
