"""Ways in which the server can be made to misbehave, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from driver.sim.apiserver.errors import StatusError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.sim.apiserver.access import User

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the fault hook sees of a request. ``verb`` is get, list, watch, create, update, patch, delete,
    deletecollection; for other URLs (discovery, version) it is get and ``resource`` is empty."""  # noqa: D205, D209

    verb: str
    path: str
    query: Mapping[str, str]
    user: User
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong. Everything may be combined; the delay comes first."""

    delay: float = 0.0
    """Seconds before anything else happens."""
    status: int = 0
    """Refuse with this HTTP status."""
    reason: str = ""
    message: str = ""
    retry_after: int | None = None
    """Seconds, as header and in the Status."""
    body: bytes | None = None
    """With ``status``: send these bytes instead of a Status (garbage, a proxy's HTML page)."""
    drop: bool = False
    """Close the connection instead of answering; the request has no effect."""
    lose_answer: bool = False
    """Do what was asked, then close the connection instead of answering."""

    def error(self) -> StatusError:
        """The refusal."""
        reason = self.reason or _REASONS.get(self.status, "InternalError")
        message = self.message or f"injected fault: {reason}"
        return StatusError(self.status, reason, message, retry_after=self.retry_after)


class Dropped(Exception):  # noqa: N818  (no error of ours)
    """Raised to close the connection without an answer."""
