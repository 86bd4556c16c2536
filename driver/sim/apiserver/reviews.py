"""Questions that are answered and not stored: may this user do that, and who am I."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.access import User
from driver.sim.apiserver.errors import bad_request

if TYPE_CHECKING:
    from driver.sim.apiserver.rbac import Rbac

    Object = dict[str, Any]


def answer(rbac: Rbac, kind: str, body: Object, user: User) -> Object:
    """The body, with its status filled in. Raises StatusError."""
    if kind == "SelfSubjectReview":
        return {**body, "status": {"userInfo": user_info(user)}}
    spec = body.get("spec") or {}
    if kind == "SubjectAccessReview":
        user = User(name=spec.get("user", ""), groups=tuple(spec.get("groups") or ()))
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if (resource is None) is (path is None):
        raise bad_request("exactly one of nonResourceAttributes or resourceAttributes must be specified")
    if path is not None:
        decision = rbac.decide_path(user, path.get("verb", ""), path.get("path", ""))
    else:
        keys = ("verb", "group", "resource", "subresource", "namespace", "name")
        decision = rbac.decide(user, *((resource or {}).get(key, "") for key in keys))
    return {**body, "status": {"allowed": decision.allowed, **({"reason": decision.reason} if decision.reason else {})}}


def user_info(user: User) -> Object:
    """A user as reviews and admission policies see one."""
    extra = {key: list(values) for key, values in user.extra.items()}
    return {"username": user.name, "uid": user.uid, "groups": list(user.groups), "extra": extra}
