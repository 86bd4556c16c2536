"""Questions that are answered and not stored: may this user do that, who am I, and a token, please."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver import schema
from driver.sim.apiserver.access import ISSUER, Tokens, User
from driver.sim.apiserver.errors import FieldError, StatusError, bad_request, invalid_kind, invalid_value, not_found
from driver.sim.apiserver.resources import ACCOUNTS, BY_PATH, PODS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from driver.sim.apiserver.rbac import Decision, Rbac
    from driver.sim.apiserver.store import Store, Stored

    Object = dict[str, Any]

_NODES = BY_PATH["", "v1", "nodes"]
_TOKEN_REQUEST = "io.k8s.api.authentication.v1.TokenRequest"  # noqa: S105
_SHORTEST = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviews:
    """Answers, from roles, tokens and the store."""

    store: Store
    tokens: Tokens
    rbac: Rbac
    decide: Callable[[User, str, str, str, str, str, str], Decision]
    now: Callable[[], datetime]

    def answer(self, kind: str, body: Object, user: User, namespace: str) -> Object:
        """The body, with its status filled in. Raises StatusError."""
        if kind == "SelfSubjectReview":
            meta = {"creationTimestamp": self._timestamp()}
            return {**body, "metadata": meta, "status": {"userInfo": _user_info(user)}}
        if kind == "TokenReview":
            return {**body, "status": self._token_review((body.get("spec") or {}).get("token", ""))}
        if kind == "SelfSubjectRulesReview":
            return {**body, "status": self._rules(user, (body.get("spec") or {}).get("namespace", ""))}
        return {**body, "status": self._access(kind, body, user, namespace)}

    def _access(self, kind: str, body: Object, user: User, namespace: str) -> Object:
        spec = body.get("spec") or {}
        resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        errors: list[FieldError] = []
        if resource is not None and path is not None:
            detail = "cannot be specified in combination with resourceAttributes"
            shown = {"Path": path.get("path", ""), "Verb": path.get("verb", "")}
            errors.append(invalid_value("spec.nonResourceAttributes", shown, detail))
        if resource is None and path is None:
            detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
            errors.append(invalid_value("spec.resourceAttributes", None, detail))
        if kind != "SelfSubjectAccessReview":
            if not spec.get("user") and not spec.get("groups"):
                errors.append(invalid_value("spec.user", "", "at least one of user or group must be specified"))
            extra = {key: tuple(values) for key, values in (spec.get("extra") or {}).items()}
            user = User(name=spec.get("user", ""), groups=tuple(spec.get("groups") or ()), extra=extra)
        if kind == "LocalSubjectAccessReview" and resource is not None and resource.get("namespace", "") != namespace:
            found = resource.get("namespace", "")
            errors.append(invalid_value("spec.resourceAttributes.namespace", found, "must match metadata.namespace"))
        if errors:
            raise invalid_kind("authorization.k8s.io", "", "", errors)  # the real server leaves the kind out too
        if path is not None:
            decision = self.rbac.decide_path(user, path.get("verb", ""), path.get("path", ""))
        else:
            resource = resource or {}
            what = [resource.get(key, "") for key in ("verb", "group", "resource", "subresource", "namespace", "name")]
            decision = self.decide(user, *what)
        return {"allowed": decision.allowed} | ({"reason": decision.reason} if decision.reason else {})

    def _rules(self, user: User, namespace: str) -> Object:
        if not namespace:
            raise bad_request("no namespace on request")
        rules = self.rbac.rules(user, namespace)
        return {
            "incomplete": False,
            "resourceRules": [rule for rule in rules if rule.get("resources")],
            "nonResourceRules": [rule for rule in rules if rule.get("nonResourceURLs")],
        }

    def _token_review(self, token: str) -> Object:
        try:
            user = self.tokens.user(token)
        except StatusError:
            return {"user": {}, "error": "invalid bearer token"}
        return {"authenticated": True, "user": _user_info(user), "audiences": [ISSUER]}

    def _timestamp(self) -> str:
        return self.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    # -- tokens --------------------------------------------------------------------------------------------------

    def token(self, namespace: str, name: str, body: Any) -> Object:
        """POST serviceaccounts/<name>/token. Raises StatusError."""
        decoded = schema.decode(_TOKEN_REQUEST, body if isinstance(body, dict) else {})
        if decoded.errors:
            raise bad_request(f'TokenRequest in version "v1" cannot be handled as a TokenRequest: {decoded.errors[0]}')
        request: Object = decoded.obj
        meta, spec = request.get("metadata") or {}, request.get("spec") or {}
        for key, wanted in (("name", name), ("namespace", namespace)):
            if meta.get(key, wanted) != wanted:
                detail = f"must match the service account {key} if specified"
                raise self._invalid(name, [invalid_value(f"metadata.{key}", meta[key], detail)])
        account = self._get("serviceaccounts", namespace, name)
        seconds = spec.get("expirationSeconds", 3600)
        if seconds < _SHORTEST:
            detail = "may not specify a duration less than 10 minutes"
            raise self._invalid("", [invalid_value("spec.expirationSeconds", seconds, detail)])
        audiences = spec.get("audiences") or [ISSUER]
        pod, node = self._bound(spec.get("boundObjectRef"), namespace, name)
        token = self.tokens.issue(account, seconds=seconds, audiences=audiences, pod=pod, node=node)
        ends = (self.now() + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": name, "namespace": namespace, "uid": account["metadata"]["uid"],
                         "creationTimestamp": self._timestamp()},
            "spec": {"audiences": audiences, "expirationSeconds": seconds,
                     "boundObjectRef": spec.get("boundObjectRef")},
            "status": {"token": token, "expirationTimestamp": ends},
        }  # fmt: skip

    def _bound(self, reference: Object | None, namespace: str, account: str) -> tuple[Object | None, Object | None]:
        """Pod and node that the token is bound to."""
        if reference is None:
            return None, None
        kind, name = reference.get("kind", ""), reference.get("name", "")
        if reference.get("apiVersion") != "v1" or kind not in {"Pod", "Node"}:
            raise bad_request(f"cannot bind token to object of type {_kind(reference)}")
        pod = node = None
        if kind == "Pod":
            found = pod = self._get("pods", namespace, name)
            if pod["spec"].get("serviceAccountName") != account:
                why = f'cannot bind token for serviceaccount "{account}" to pod running with different '
                raise bad_request(why + "serviceaccount name.")
            if where := pod["spec"].get("nodeName"):
                stored = self.store.get("nodes", ("", where))
                node = stored.obj if stored else {"metadata": {"name": where}}
        else:
            found = node = self._get("nodes", "", name)
        if reference.get("uid") and reference["uid"] != found["metadata"]["uid"]:
            why = (
                f"the UID in the bound object reference ({reference['uid']}) does not match the UID in record. "
                "The object might have been deleted and then recreated"
            )
            message = f'Operation cannot be fulfilled on {kind} "{name}": {why}'
            raise StatusError(409, "Conflict", message, {"name": name, "kind": kind})
        return pod, node

    def _get(self, collection: str, namespace: str, name: str) -> Object:
        stored: Stored | None = self.store.get(collection, (namespace, name))
        if stored is None:
            resource = {"serviceaccounts": ACCOUNTS, "pods": PODS, "nodes": _NODES}[collection]
            raise not_found(resource, name)
        return stored.obj

    def _invalid(self, name: str, errors: list[FieldError]) -> StatusError:
        return invalid_kind("authentication.k8s.io", "TokenRequest", name, errors)


def _kind(reference: Object) -> str:
    group, _, version = reference.get("apiVersion", "").rpartition("/")
    return f"{group}/{version}, Kind={reference.get('kind', '')}"


def _user_info(user: User) -> Mapping[str, Any]:
    extra = {key: list(values) for key, values in user.extra.items()}
    return {
        "username": user.name,
        **({"uid": user.uid} if user.uid else {}),
        "groups": list(user.groups),
        **({"extra": extra} if extra else {}),
    }
