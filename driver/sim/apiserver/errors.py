"""What a Kubernetes API server answers when it refuses: Status objects and field errors, in its own words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from driver.sim.apiserver.resources import Resource


@dataclass(eq=False)
class StatusError(Exception):
    """A refused request; ``status()`` is the body of the answer."""

    code: int
    reason: str
    message: str
    details: dict[str, Any] | None = None
    """Sent if there are any, even if they are empty."""
    retry_after: int | None = None

    def __str__(self) -> str:
        return self.message

    def status(self) -> dict[str, Any]:
        """The ``Status`` object of this refusal."""
        details = None if self.details is None else dict(self.details)
        if self.retry_after is not None:
            details = details or {}
            details["retryAfterSeconds"] = self.retry_after
        answer: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if details is not None:
            answer["details"] = details
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One thing that is wrong with one field of an object (apimachinery's ``field.Error``)."""

    reason: str
    path: str
    body: str

    def __str__(self) -> str:
        return f"{self.path}: {self.body}"


def _quote(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def required(path: str, detail: str = "") -> FieldError:
    """A field that must be there is not."""
    return FieldError(reason="FieldValueRequired", path=path, body="Required value" + (f": {detail}" if detail else ""))


def forbidden_field(path: str, detail: str) -> FieldError:
    """A field must not be set, or not to this."""
    return FieldError(reason="FieldValueForbidden", path=path, body=f"Forbidden: {detail}")


def invalid_value(path: str, value: Any, detail: str) -> FieldError:
    """A field has a value that breaks a rule."""
    return FieldError(
        reason="FieldValueInvalid",
        path=path,
        body=f"Invalid value: {_quote(value)}" + (f": {detail}" if detail else ""),
    )


def unsupported(path: str, value: Any, supported: Iterable[str]) -> FieldError:
    """A field has a value that is not one of those listed."""
    listed = ", ".join(_quote(item) for item in supported)
    return FieldError(
        reason="FieldValueNotSupported",
        path=path,
        body=f"Unsupported value: {_quote(value)}: supported values: {listed}",
    )


def duplicate(path: str, value: Any) -> FieldError:
    """The same key twice in one list."""
    return FieldError(reason="FieldValueDuplicate", path=path, body=f"Duplicate value: {_quote(value)}")


def not_found_value(path: str, value: Any) -> FieldError:
    """A field refers to something that does not exist."""
    return FieldError(reason="FieldValueNotFound", path=path, body=f"Not found: {_quote(value)}")


def too_long(path: str, limit: int) -> FieldError:
    """A string is longer than ``limit`` bytes."""
    return FieldError(reason="FieldValueTooLong", path=path, body=f"Too long: may not be more than {limit} bytes")


def too_many(path: str, count: int, limit: int) -> FieldError:
    """A list or map has more than ``limit`` entries."""
    return FieldError(
        reason="FieldValueTooMany",
        path=path,
        body=f"Too many: {count}: must have at most {limit} item{'s'[: limit != 1]}",
    )


def _details(resource: Resource, name: str) -> dict[str, Any]:
    details: dict[str, Any] = {"name": name} if name else {}
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.plural
    return details


def not_found(resource: Resource, name: str) -> StatusError:
    """404 for an object."""
    return StatusError(404, "NotFound", f'{resource.qualified} "{name}" not found', _details(resource, name))


def already_exists(resource: Resource, name: str) -> StatusError:
    """409 for a create."""
    return StatusError(409, "AlreadyExists", f'{resource.qualified} "{name}" already exists', _details(resource, name))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(resource: Resource, name: str, why: str = MODIFIED) -> StatusError:
    """409 for an update or a precondition."""
    message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return StatusError(409, "Conflict", message, _details(resource, name))


def invalid(resource: Resource, name: str, errors: Sequence[FieldError]) -> StatusError:
    """422 with one cause per field error."""
    return invalid_kind(resource.group, resource.kind, name, errors)


def invalid_kind(group: str, kind: str, name: str, errors: Sequence[FieldError]) -> StatusError:
    """The same for something that is no resource of its own."""
    details: dict[str, Any] = {"name": name} if name else {}
    details |= {"group": group} if group else {}
    details |= {"kind": kind} if kind else {}
    details["causes"] = [{"reason": e.reason, "message": e.body, "field": e.path} for e in errors]
    listed = ", ".join(str(e) for e in errors)
    listed = f"[{listed}]" if len(errors) > 1 else listed
    full = f"{kind}.{group}" if group else kind
    return StatusError(422, "Invalid", f'{full} "{name}" is invalid: {listed}', details)


def forbidden(resource: Resource, name: str, why: str, *causes: dict[str, str]) -> StatusError:
    """403."""
    details = _details(resource, name) | ({"causes": list(causes)} if causes else {})
    subject = f'{resource.qualified} "{name}"' if name else resource.qualified
    return StatusError(403, "Forbidden", f"{subject} is forbidden: {why}", details)


def forbidden_request(
    user: str, verb: str, group: str, resource: str, subresource: str, namespace: str, name: str, reason: str = ""
) -> StatusError:
    """403 for what a user may not do to a resource (or, without one, to the URL path that is in ``name``)."""
    if not resource:
        message = f'forbidden: User "{user}" cannot {verb} path "{name}"' + (f": {reason}" if reason else "")
        return StatusError(403, "Forbidden", message, {})
    what = f"{resource}/{subresource}" if subresource else resource
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    why = f'User "{user}" cannot {verb} resource "{what}" in API group "{group}" {where}'
    subject = f"{resource}.{group}" if group else resource
    subject += f' "{name}"' if name else ""
    details = {"name": name} if name else {}
    details |= {"group": group} if group else {}
    message = f"{subject} is forbidden: {why}" + (f": {reason}" if reason else "")
    return StatusError(403, "Forbidden", message, {**details, "kind": resource})


def invalid_options(kind: str, error: FieldError) -> StatusError:
    """422 for a parameter of the query string; ``kind`` is CreateOptions and so on."""
    causes = [{"reason": error.reason, "message": error.body, "field": error.path}]
    details = {"group": "meta.k8s.io", "kind": kind, "causes": causes}
    return StatusError(422, "Invalid", f'{kind}.meta.k8s.io "" is invalid: {error}', details)


def bad_request(message: str) -> StatusError:
    """400."""
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    """401."""
    return StatusError(401, "Unauthorized", "Unauthorized")


def expired(version: int, oldest: int) -> StatusError:
    """410 for a watch or a list page from too long ago."""
    return StatusError(410, "Expired", f"too old resource version: {version} ({oldest})")


def too_large_version(version: int, current: int) -> StatusError:
    """504 for a resource version that the server has not reached, for example because it lost its state."""
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    message = f"Timeout: Too large resource version: {version}, current: {current}"
    return StatusError(504, "Timeout", message, {"causes": causes}, retry_after=1)


def unsupported_media_type(accepted: Iterable[str]) -> StatusError:
    """415."""
    return StatusError(
        415,
        "UnsupportedMediaType",
        f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}",
    )


def no_such_resource() -> StatusError:
    """404 for a path."""
    return StatusError(404, "NotFound", "the server could not find the requested resource", {})


def method_not_allowed() -> StatusError:
    """405."""
    return StatusError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})


def apply_conflict(conflicts: Sequence[tuple[str, str]]) -> StatusError:
    """409 of server-side apply; ``conflicts`` are (manager, field path)."""
    managers: dict[str, list[str]] = {}
    for manager, path in conflicts:
        managers.setdefault(manager, []).append(path)
    lines = []
    for manager, paths in managers.items():
        if len(paths) == 1:
            lines.append(f"conflict with {manager}: {paths[0]}")
        else:
            lines.append(f"conflicts with {manager}:\n" + "\n".join(f"- {path}" for path in paths))
    count = len(conflicts)
    details = {
        "causes": [
            {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": path}
            for manager, path in conflicts
        ]
    }
    head = f"Apply failed with {count} conflict{'s'[: count != 1]}: "
    return StatusError(409, "Conflict", head + "\n".join(lines), details)
