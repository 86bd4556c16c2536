"""Who may do what: role-based access control over the roles and bindings in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.access import ADMIN_GROUP, User
from driver.sim.apiserver.errors import bad_request
from driver.sim.apiserver.selectors import match_label_selector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from driver.sim.apiserver.store import Change, Store

    Object = dict[str, Any]

_COLLECTIONS = frozenset({"roles", "clusterroles", "rolebindings", "clusterrolebindings"})
_MEMORY = 16_384
"""Decisions that are kept; a server asks the same few questions over and over."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether something is allowed, and by what."""

    allowed: bool
    reason: str = ""


class Rbac:
    """Decisions, remembered until a role or a binding changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._decisions: dict[tuple[Any, ...], Decision] = {}

    def changed(self, collection: str, _change: Change) -> None:
        """Forget all decisions when they may be others now; keep aggregated roles in step with their parts."""
        if collection in _COLLECTIONS:
            self._decisions.clear()
        if collection == "clusterroles":
            self._aggregate()

    def decide(
        self, user: User, verb: str, group: str, resource: str, subresource: str, namespace: str, name: str
    ) -> Decision:
        """Whether a user may do this to a resource."""
        combined = f"{resource}/{subresource}" if subresource else resource
        anywhere = f"*/{subresource}"

        def allowed(rule: Object) -> bool:
            names = rule.get("resourceNames")
            resources = rule.get("resources") or ()
            return (
                _one_of(rule.get("verbs"), verb)
                and _one_of(rule.get("apiGroups"), group)
                and (_one_of(resources, combined) or (bool(subresource) and anywhere in resources))
                and (not names or name in names)
            )

        key = (user.name, user.groups, verb, group, combined, namespace, name)
        return self._decide(key, user, namespace, allowed)

    def decide_path(self, user: User, verb: str, path: str) -> Decision:
        """Whether a user may do this to a URL that is no resource's."""

        def allowed(rule: Object) -> bool:
            return _one_of(rule.get("verbs"), verb) and any(
                url in ("*", path) or (url.endswith("*") and path.startswith(url.rstrip("*")))
                for url in rule.get("nonResourceURLs") or ()
            )

        return self._decide((user.name, user.groups, verb, path), user, "", allowed)

    def _decide(self, key: tuple[Any, ...], user: User, namespace: str, allowed: Callable[[Object], bool]) -> Decision:
        if ADMIN_GROUP in user.groups:
            return Decision(True)
        found = self._decisions.get(key)
        if found is None:
            if len(self._decisions) >= _MEMORY:
                self._decisions.clear()
            found = self._decisions[key] = self._search(user, namespace, allowed)
        return found

    def _search(self, user: User, namespace: str, allowed: Callable[[Object], bool]) -> Decision:
        for name, rules in self._sources(user, namespace):
            if any(allowed(rule) for rule in rules):
                return Decision(True, f"RBAC: allowed by {name}")
        return Decision(False)

    def _sources(self, user: User, namespace: str) -> Iterator[tuple[str, list[Object]]]:
        """Each binding that applies to a user, by name, and the rules that it gives."""
        for (where, name), binding in [*self._all("clusterrolebindings"), *self._all("rolebindings")]:
            if where not in {"", namespace} or not any(_applies(s, user, where) for s in binding.get("subjects") or ()):
                continue
            role = binding["roleRef"]
            collection, key = ("roles", where) if role["kind"] == "Role" else ("clusterroles", "")
            if stored := self._store.get(collection, (key, role["name"])):
                yield f'{binding["kind"]} "{name}"', stored.obj.get("rules") or []

    def _all(self, collection: str) -> Iterator[tuple[tuple[str, str], Object]]:
        objects = self._store.collection(collection).objects
        return ((key, objects[key].obj) for key in sorted(objects))

    def _aggregate(self) -> None:
        """Write the union of their parts into the roles that are made of others."""
        for key, role in list(self._all("clusterroles")):
            if not role.get("aggregationRule"):
                continue
            rules: list[Object] = []
            for selector in role["aggregationRule"].get("clusterRoleSelectors") or ():
                for (_, name), part in self._all("clusterroles"):
                    if name != key[1] and match_label_selector(selector, part["metadata"].get("labels") or {}):
                        rules += [rule for rule in part.get("rules") or () if rule not in rules]
            if rules != (role.get("rules") or []):
                self._store.put("clusterroles", key, {**role, "metadata": dict(role["metadata"]), "rules": rules})
                return  # the write has called us again


def _one_of(values: Any, wanted: str) -> bool:
    return bool(values) and ("*" in values or wanted in values)


def _applies(subject: Object, user: User, namespace: str) -> bool:
    match subject.get("kind"):
        case "User":
            return bool(subject["name"] == user.name)
        case "Group":
            return subject["name"] in user.groups
        case "ServiceAccount":
            where = subject.get("namespace") or namespace
            return user.name == f"system:serviceaccount:{where}:{subject['name']}"
        case _:
            return False


# -- questions that are answered and not stored: may this user do that, and who am I ----------------------------------


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
