"""Who asks: users, bearer tokens, impersonation, and the kubeconfig with which they ask."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.errors import forbidden_request, unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from driver.sim.apiserver.store import Store

    Object = dict[str, Any]
    Authorize = Callable[["User", str, str, str, str, str, str], bool]
    """``(user, verb, group, resource, subresource, namespace, name) -> allowed``."""

ISSUER = "https://kubernetes.default.svc.cluster.local"
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
    """What a verified token says; it holds as long as the objects that it is bound to exist, until it expires."""

    user: User
    expires: float
    bound: tuple[tuple[str, tuple[str, str], str], ...]
    """Collection, key and UID."""


class Tokens:
    """Bearer tokens of service accounts: signed, and invalid once the account, the pod or the node is gone.

    They are JSON Web Tokens with the claims of a real server's, signed by a key that lives as long as this object.
    """

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._key = secrets.token_bytes(32)
        self._known: dict[str, _Identity] = {}
        self.admin = secrets.token_urlsafe(24)
        """The administrator's token."""

    def issue(
        self,
        account: Object,
        *,
        seconds: int,
        audiences: list[str],
        pod: Object | None = None,
        node: Object | None = None,
    ) -> str:
        """A token of a service account, bound to a pod (on its node), to a node, or to neither."""
        meta, begin = account["metadata"], int(self._now().timestamp())
        bound: Object = {"namespace": meta["namespace"], "serviceaccount": _reference(account)}
        if pod is not None:
            bound["pod"] = _reference(pod)
        if node is not None:
            bound["node"] = _reference(node)
        claims = {
            "aud": audiences,
            "exp": begin + seconds,
            "iat": begin,
            "iss": ISSUER,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": bound,
            "nbf": begin,
            "sub": f"system:serviceaccount:{meta['namespace']}:{meta['name']}",
        }
        signed = f"{_encoded({'alg': 'HS256', 'typ': 'JWT'})}.{_encoded(claims)}"
        return f"{signed}.{self._signature(signed)}"

    def user(self, token: str) -> User:
        """Whose token this is. Raises StatusError 401."""
        if token == self.admin:
            return ADMIN
        identity = self._known.get(token)
        if identity is None:
            identity = self._known[token] = self._verified(token)
        if self._now().timestamp() > identity.expires:
            raise unauthorized()
        for collection, key, uid in identity.bound:
            stored = self._store.get(collection, key)
            if stored is None or stored.obj["metadata"]["uid"] != uid:
                raise unauthorized()
        return identity.user

    def _verified(self, token: str) -> _Identity:
        signed, _, signature = token.rpartition(".")
        if not signed or not hmac.compare_digest(signature, self._signature(signed)):
            raise unauthorized()
        claims = json.loads(base64.urlsafe_b64decode(signed.split(".")[1] + "=="))
        if ISSUER not in claims["aud"]:
            raise unauthorized()
        said = claims["kubernetes.io"]
        namespace, account = said["namespace"], said["serviceaccount"]
        extra = {"credential-id": (f"JTI={claims['jti']}",)}
        bound = [("serviceaccounts", (namespace, account["name"]), account["uid"])]
        if "pod" in said:
            bound.append(("pods", (namespace, said["pod"]["name"]), said["pod"]["uid"]))
        elif "node" in said:
            bound.append(("nodes", ("", said["node"]["name"]), said["node"]["uid"]))
        for kind in ("node", "pod"):
            if kind in said:
                extra |= {f"{kind}-{key}": (value,) for key, value in said[kind].items()}
        user = service_account_user(
            namespace, account["name"], account["uid"], {f"{_EXTRA}{key}": value for key, value in extra.items()}
        )
        return _Identity(user=user, expires=claims["exp"], bound=tuple(bound))

    def _signature(self, signed: str) -> str:
        return _base64(hmac.digest(self._key, signed.encode(), hashlib.sha256))


def _reference(obj: Object) -> dict[str, str]:
    meta = obj["metadata"]
    return {"name": meta["name"]} | ({"uid": meta["uid"]} if "uid" in meta else {})


def _encoded(part: Mapping[str, Any]) -> str:
    return _base64(json.dumps(part, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def impersonated(user: User, headers: Mapping[str, str], groups: list[str], authorize: Authorize) -> User:
    """The user in whose name ``user`` asks (``kubectl --as``). Raises StatusError 403."""
    name = headers.get("Impersonate-User", "")
    if not name:
        return user
    extra = {
        key.lower().removeprefix("impersonate-extra-"): (value,)
        for key, value in headers.items()
        if key.lower().startswith("impersonate-extra-")
    }
    prefix, account = "system:serviceaccount:", name.split(":")
    if name.startswith(prefix) and len(account) == 4:
        wanted = [("", "serviceaccounts", "", account[2], account[3])]
        other = service_account_user(account[2], account[3], headers.get("Impersonate-Uid", ""), extra)
    else:
        wanted = [("", "users", "", "", name)]
        other = User(name=name, groups=(_AUTHENTICATED,), extra=extra, uid=headers.get("Impersonate-Uid", ""))
    wanted += [("", "groups", "", "", group) for group in groups]
    wanted += [("authentication.k8s.io", "userextras", key, "", value) for key, (value,) in extra.items()]
    for group, resource, subresource, namespace, target in wanted:
        if not authorize(user, "impersonate", group, resource, subresource, namespace, target):
            raise forbidden_request(user.name, "impersonate", group, resource, subresource, namespace, target)
    if groups:
        own = () if _AUTHENTICATED in groups else (_AUTHENTICATED,)
        other = User(name=other.name, groups=(*groups, *own), extra=extra, uid=other.uid)
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
