"""Who asks, what they may do, and the kubeconfig with which they ask."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.errors import StatusError, forbidden, unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.sim.apiserver.resources import Resource

    Authorize = Callable[["User", str, str, str, str, str, str], bool]
    """``(user, verb, group, resource, subresource, namespace, name) -> allowed``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who asks."""

    name: str = "kubernetes-admin"
    groups: tuple[str, ...] = ("system:masters", "system:authenticated")
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


ADMIN = User()


def allow_all(_user: User, _verb: str, _group: str, _resource: str, _sub: str, _namespace: str, _name: str) -> bool:
    """The default: everybody may do everything."""
    return True


def authenticate(tokens: Mapping[str, User] | None, header: str) -> User:
    """The user of a request's ``Authorization`` header. Without tokens everybody is the administrator."""
    if tokens is None:
        return ADMIN
    scheme, _, token = header.partition(" ")
    user = tokens.get(token.strip()) if scheme.lower() == "bearer" else None
    if user is None:
        raise unauthorized()
    return user


def denied(user: User, verb: str, resource: Resource, subresource: str, namespace: str, name: str) -> StatusError:
    """403 in the words of the real server."""
    what = f"{resource.plural}/{subresource}" if subresource else resource.plural
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    why = f'User "{user.name}" cannot {verb} resource "{what}" in API group "{resource.group}" {where}'
    return forbidden(resource, name, why)


def kubeconfig(url: str, *, token: str = "", namespace: str = "default") -> dict[str, Any]:
    """A kubeconfig for the server at ``url``; JSON or YAML of it is a valid file."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "embedded", "cluster": {"server": url}}],
        "users": [{"name": "user", "user": {"token": token} if token else {}}],
        "contexts": [{"name": "embedded", "context": {"cluster": "embedded", "user": "user", "namespace": namespace}}],
        "current-context": "embedded",
        "preferences": {},
    }
