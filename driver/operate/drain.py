"""The driver goes last: wait until no claim is prepared on this node any more.

A pod cannot end without its driver: the kubelet needs us to unprepare its claims. So before the last instance of a node
stops, the claims have to go. An instance that is replaced during an upgrade has nothing to wait for, nor has one that
does not answer: it serves nobody, and waiting is only in the way of its restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driver.base import files, layout
from driver.claims import DamagedRecordError, Record, decode
from driver.inventory import Instance, Kind, find_instances
from driver.kube import ApiError, claim_path, uid_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from driver.claims import ClaimRef
    from driver.kube import Api
    from driver.node import Settings

PERIOD = 0.25
"""Between two readings of the directory of records; one system call or two each."""
CONFIRM = 3.0
"""So long another instance has to be there and stay: two that are deleted together must not rely on each other."""
_LEAVING = ".leaving-{instance}.lock"


class Outcome(enum.StrEnum):
    """How the wait ended."""

    CLEAR = "clear"
    """No claim is prepared."""
    RELIEVED = "relieved"
    """Another instance of this driver serves the node."""
    USELESS = "useless"
    """This instance does not answer, so nobody needs it."""
    HELD = "held"
    """Time is up, and claims are still prepared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A claim that is prepared on this node."""

    uid: str
    claim: ClaimRef | None
    """None where the record cannot be read."""
    state: str
    devices: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.claim is None:
            return f"claim with UID {self.uid}, whose record {self.state}"
        devices = ", ".join(self.devices) or "no device"
        return f"{self.claim} holds {devices}" + ("" if self.state == "prepared" else f" ({self.state})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """The end of the wait."""

    outcome: Outcome
    holders: tuple[Holder, ...]
    relief: Instance | None = None
    """The instance that serves the node instead."""


def holders(plugin_dir: Path, *, boot_id: str) -> tuple[Holder, ...]:
    """Claims that have a record of this boot, prepared or on their way; unreadable ones count. Raises OSError."""
    found = []
    for path in sorted(_records(plugin_dir)):
        try:
            record = decode(files.read(str(path)), uid=path.stem)
        except FileNotFoundError:
            continue  # it has ended between the two
        except (OSError, DamagedRecordError) as error:
            found.append(Holder(uid=path.stem, claim=None, state=f"is damaged ({error})"))
            continue
        if record.boot_id == boot_id:  # what an earlier boot held is gone
            found.append(_holder(record))
    return tuple(found)


def _records(plugin_dir: Path) -> list[Path]:
    directory = plugin_dir / layout.CLAIMS
    try:
        names = os.listdir(directory)  # noqa: PTH208 - the error of a missing directory is wanted
    except FileNotFoundError:
        return []
    return [directory / name for name in names if name.endswith(".json")]


def _holder(record: Record) -> Holder:
    devices = tuple(device.device for device in record.devices)
    return Holder(uid=record.claim.uid, claim=record.claim, state=record.state.value, devices=devices)


async def wait_until_drained(
    settings: Settings,
    *,
    boot_id: str,
    timeout: float,
    whole_node: bool = False,
    progress: Callable[[tuple[Holder, ...]], None] = lambda _holders: None,
    confirm: float = CONFIRM,
) -> Drained:
    """Wait until nothing is prepared, at most ``timeout`` seconds; 0 looks once.

    With a pod UID in the settings the question is whether *that instance* may go, and another one that serves the node
    settles it, unless ``whole_node`` is asked for. ``progress`` is told who holds what, at first and after each change.

    Raises:
        OSError: the records cannot be read.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    replaceable = bool(settings.pod_uid) and not whole_node
    last: tuple[Holder, ...] | None = None
    relieved_since: float | None = None
    next_check = loop.time()
    with _leaving(settings) if replaceable else contextlib.nullcontext():
        while True:
            now = holders(settings.plugin_dir, boot_id=boot_id)
            if not now:
                return Drained(outcome=Outcome.CLEAR, holders=())
            if now != last:
                last = now
                progress(now)
            if replaceable and loop.time() >= next_check:
                instances = await find_instances(settings.kubelet_registry_dir, settings.driver_name)
                if not any(found.kind is Kind.OURS and _is_own(found, settings) for found in instances):
                    return Drained(outcome=Outcome.USELESS, holders=now)
                relief = next((found for found in instances if _relieves(found, settings)), None)
                if relief is None:
                    relieved_since = None
                elif relieved_since is None:
                    relieved_since = loop.time()
                if relief is not None and relieved_since is not None and loop.time() - relieved_since >= confirm:
                    return Drained(outcome=Outcome.RELIEVED, holders=now, relief=relief)
                next_check = loop.time() + confirm / 3
            left = deadline - loop.time()
            # An answer that is nearly confirmed is waited for, even where nobody wants to wait for claims.
            if left <= 0 and (relieved_since is None or loop.time() - relieved_since >= confirm):
                return Drained(outcome=Outcome.HELD, holders=now)
            await asyncio.sleep(min(PERIOD, left) if left > 0 else PERIOD)


async def users(api: Api, holder: Holder) -> str:
    """Who uses a claim, by what the API server says; a sentence's end. Never raises."""
    if holder.claim is None:
        return "its pods are not known"
    path = claim_path(holder.claim.namespace, holder.claim.name)
    try:
        claim = await api.get(path, timeout=3)
        uid = uid_of(claim, path)
    except ApiError as error:
        return "the claim is gone from the API server" if error.status == 404 else f"its pods are not known: {error}"
    if uid != holder.uid:
        return "the claim is gone from the API server, another one has its name"
    try:
        reserved = (claim.get("status") or {}).get("reservedFor") or []
        names = [f"{entry.get('resource', 'pods').removesuffix('s')} {entry['name']}" for entry in reserved]
    except (AttributeError, KeyError, TypeError):
        return "its pods are not known: the answer is no claim"
    return "for " + ", ".join(names) if names else "no pod uses it"


def _is_own(found: Instance, settings: Settings) -> bool:
    return found.socket == settings.registrar_socket


def _relieves(found: Instance, settings: Settings) -> bool:
    return (
        found.kind is Kind.OURS
        and found.name == settings.driver_name
        and not _is_own(found, settings)
        and not _is_leaving(settings, found)
    )


@contextlib.contextmanager
def _leaving(settings: Settings) -> Iterator[None]:
    """Let other instances know that this one is about to go: they must not take it for one that stays."""
    path = settings.plugin_dir / _LEAVING.format(instance=settings.instance)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError:  # a disk that is full must not keep us from looking
        yield
        return
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _is_leaving(settings: Settings, other: Instance) -> bool:
    instance = other.socket.name.removeprefix(f"{settings.driver_name}-").removesuffix("-reg.sock")
    try:
        descriptor = os.open(settings.plugin_dir / _LEAVING.format(instance=instance), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
