"""Log lines for people (text) or machines (JSON), both with the same fields."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_ENCODER = json.JSONEncoder(default=str)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


OWN = __name__.partition(".")[0]
BURST = 10
BURST_SECONDS = 60.0


class Rarely(logging.Filter):
    """Lets each library say only so many lines a minute, and how many it did not say.

    What a library logs, such as each connection that cannot be accepted, may be in the hands of whoever calls us.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}
        """Since when how many lines came, by logger."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a line."""
        if record.name.partition(".")[0] == OWN:
            return True
        since, lines = self._said.get(record.name, (-BURST_SECONDS, 0))
        if self._clock() - since >= BURST_SECONDS:
            if lines > BURST:
                record.not_logged = lines - BURST
            since, lines = self._clock(), 0
        self._said[record.name] = (since, lines + 1)
        return lines < BURST


def configure_logging(*, level: str, log_format: str) -> None:
    """Send all logs to standard error, one line each."""
    # What no line of ours has need not be found out for each (see "Optimization" in Python's logging how-to).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    handler.addFilter(Rarely())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Each request of the HTTP client would be a line; at debug level ours say more.
    for noisy in ("aiohttp.access", "asyncio", "kubernetes"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """``time LEVEL message key=value …``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback below it where there is one."""
        pairs = "".join(f" {key}={_plain(value)}" for key, value in _fields(record).items())
        # What comes from outside must not start a new line that looks like ours.
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        line = f"{_time(record)} {record.levelname:<7} {message}{pairs}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object for each line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with a traceback as a field."""
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return _ENCODER.encode(entry)


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    text = str(value)
    return json.dumps(text) if not text or any(c.isspace() or c == '"' for c in text) else text
