"""Who asks: users, bearer tokens, impersonation, and the kubeconfig with which they ask."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.errors import forbidden_request, unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.sim.apiserver.store import Store

    Object = dict[str, Any]
    Authorize = Callable[["User", str, str, str, str, str, str], bool]
    """``(user, verb, group, resource, subresource, namespace, name) -> allowed``."""

ADMIN_GROUP = "system:masters"
_AUTHENTICATED = "system:authenticated"
_EXTRA = "authentication.kubernetes.io/"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who asks."""

    name: str = "kubernetes-admin"
    groups: tuple[str, ...] = (ADMIN_GROUP, _AUTHENTICATED)
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    uid: str = ""


ADMIN = User()
ANONYMOUS = User(name="system:anonymous", groups=("system:unauthenticated",))


def service_account_user(namespace: str, name: str, uid: str, extra: Mapping[str, tuple[str, ...]]) -> User:
    """The user that a service account's token stands for."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", _AUTHENTICATED)
    return User(name=f"system:serviceaccount:{namespace}:{name}", groups=groups, extra=extra, uid=uid)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identity:
    """Whose a token is; it holds as long as the objects that it is bound to exist."""

    user: User
    bound: tuple[tuple[str, tuple[str, str], str], ...]
    """Collection, key and UID."""


class Tokens:
    """Bearer tokens of service accounts: invalid once the account, the pod or the node is gone."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, _Identity] = {}
        self.admin = secrets.token_urlsafe(24)
        """The administrator's token."""

    def issue(self, namespace: str, name: str, *, pod: str = "", node: str = "") -> str:
        """A token of a service account, bound to a pod (and named after its node), to a node, or to neither.

        Raises KeyError for what does not exist.
        """
        account = self._bound("serviceaccounts", namespace, name)
        bound, extra = [account], dict[str, tuple[str, ...]]()
        if pod:
            bound.append(self._bound("pods", namespace, pod))
            stored = self._store.get("pods", (namespace, pod))
            node = str(stored.obj["spec"].get("nodeName", "")) if stored else ""
        elif node:
            bound.append(self._bound("nodes", "", node))
        named = self._store.get("nodes", ("", node))
        for kind, of, uid in (
            ("pod", pod, bound[-1][2]),
            ("node", node, named.obj["metadata"]["uid"] if named else ""),
        ):
            extra |= {f"{_EXTRA}{kind}-name": (of,), f"{_EXTRA}{kind}-uid": (uid,)} if of else {}
        token = secrets.token_urlsafe(24)
        user = service_account_user(namespace, name, account[2], extra)
        self._known[token] = _Identity(user=user, bound=tuple(bound))
        return token

    def user(self, token: str) -> User:
        """Whose token this is. Raises StatusError 401."""
        if token == self.admin:
            return ADMIN
        identity = self._known.get(token)
        if identity is None:
            raise unauthorized()
        for collection, key, uid in identity.bound:
            stored = self._store.get(collection, key)
            if stored is None or stored.obj["metadata"]["uid"] != uid:
                raise unauthorized()
        return identity.user

    def _bound(self, collection: str, namespace: str, name: str) -> tuple[str, tuple[str, str], str]:
        stored = self._store.get(collection, (namespace, name))
        if stored is None:
            raise KeyError(f"{collection} {namespace}/{name} does not exist")
        return collection, (namespace, name), str(stored.obj["metadata"]["uid"])


def impersonated(user: User, name: str, authorize: Authorize) -> User:
    """The user in whose name ``user`` asks (``kubectl --as``). Raises StatusError 403."""
    prefix, account = "system:serviceaccount:", name.split(":")
    wanted = ("impersonate", "", "users", "", "", name)
    other = User(name=name, groups=(_AUTHENTICATED,))
    if name.startswith(prefix) and len(account) == 4:
        wanted = ("impersonate", "", "serviceaccounts", "", account[2], account[3])
        other = service_account_user(account[2], account[3], "", {})
    if not authorize(user, *wanted):
        raise forbidden_request(user.name, *wanted)
    return other


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
