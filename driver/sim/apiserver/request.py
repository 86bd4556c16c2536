"""What a request is about: its URL, parsed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from driver.sim.apiserver.errors import StatusError, method_not_allowed, no_such_resource
from driver.sim.apiserver.faults import Request
from driver.sim.apiserver.resource import Resource
from driver.sim.apiserver.resources import BY_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.sim.apiserver.access import User

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
TRUE = {"true", "1", "True"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A URL, parsed. ``resource`` is None for everything that is not about objects."""

    request: Request
    resource: Resource | None = None
    error: StatusError | None = None
    """What is wrong with the URL; said only to somebody who may ask for it."""


def parse(method: str, path: str, query: Mapping[str, str], user: User) -> Target:
    """What a request is about."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    group = version = ""
    if parts[0] == "api" and len(parts) > 2:
        version, rest = parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return Target(request=Request(verb=method.lower(), path=path, query=query, user=user))
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] != "status":
        namespace, rest = rest[1], rest[2:]
    resource = BY_PATH.get((group, version, rest[0]))
    name = rest[1] if len(rest) > 1 else ""
    verb = _VERBS.get(method, "get")
    if method == "GET" and not name:
        verb = "watch" if query.get("watch") in TRUE else "list"
    elif method == "DELETE" and not name:
        verb = "deletecollection"
    request = Request(verb=verb, path=path, query=query, user=user, group=group, resource=rest[0],
                      subresource="/".join(rest[2:]), namespace=namespace, name=name)  # fmt: skip
    error = None
    if resource is None or (resource.namespaced != bool(namespace) and (not resource.namespaced or name)):
        error = no_such_resource()
    elif (method == "POST" and ((name and not request.subresource) or resource.namespaced != bool(namespace))) or (
        method in {"PUT", "PATCH"} and not name
    ):
        error = method_not_allowed()
    return Target(request=request, resource=resource, error=error)


def selected_name(what: Request) -> str:
    """The one name that a list or watch selects: a permission by name covers it."""
    for part in what.query.get("fieldSelector", "").split(",") if what.verb in {"list", "watch"} else ():
        if part.startswith("metadata.name="):
            return part.removeprefix("metadata.name=").removeprefix("=")
    return ""
