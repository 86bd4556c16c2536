"""What a Kubernetes API server answers when it refuses: Status objects and field errors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from driver.sim.apiserver.resource import Resource


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


FieldError = str
"""One thing that is wrong with one field of an object: its path, and what is wrong."""
Errors = list[FieldError]
Object = dict[str, Any]


def _quote(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def required(path: str, detail: str = "") -> FieldError:
    """A field that must be there is not."""
    return f"{path}: Required value" + (f": {detail}" if detail else "")


def forbidden_field(path: str, detail: str) -> FieldError:
    """A field must not be set, or not to this."""
    return f"{path}: Forbidden: {detail}"


def invalid_value(path: str, value: Any, detail: str) -> FieldError:
    """A field has a value that breaks a rule."""
    return f"{path}: Invalid value: {_quote(value)}: {detail}"


def unsupported(path: str, value: Any, supported: Iterable[str]) -> FieldError:
    """A field has a value that is not one of those listed."""
    return f"{path}: Unsupported value: {_quote(value)}: supported values: {', '.join(map(_quote, supported))}"


def duplicate(path: str, value: Any) -> FieldError:
    """The same key twice in one list."""
    return f"{path}: Duplicate value: {_quote(value)}"


def not_found_value(path: str, value: Any) -> FieldError:
    """A field refers to something that does not exist."""
    return f"{path}: Not found: {_quote(value)}"


def too_long(path: str, limit: int) -> FieldError:
    """A string is longer than ``limit`` bytes."""
    return f"{path}: Too long: may not be more than {limit} bytes"


def too_many(path: str, count: int, limit: int) -> FieldError:
    """A list or map has more than ``limit`` entries."""
    return f"{path}: Too many: {count}: must have at most {limit} items"


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
    """422."""
    details = _details(resource, name) | {"kind": resource.kind}
    listed = ", ".join(errors)
    listed = f"[{listed}]" if len(errors) > 1 else listed
    full = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
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
