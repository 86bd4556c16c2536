"""Other drivers of the same GPUs on this node: found, said, and kept from handing a GPU out twice.

NVIDIA's device plugin and NVIDIA's own DRA driver know nothing of our claims, and the scheduler counts their GPUs and
ours apart. So as long as one of them serves the node, slices are not published, unless the operator insists. What was
published before stays, because claims may hold it, and is tainted so that nothing new is allocated.

Only what is alive counts: both leave files behind when they are uninstalled.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from driver.base.backoff import Backoff
from driver.base.quantity import parse_quantity
from driver.base.repeat_filter import RepeatFilter
from driver.inventory.instances import Instance, Kind, identify, is_socket, listened_to, registrar_sockets
from driver.inventory.slices import slice_name
from driver.kube import ApiError, check_node

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from driver.kube import Api, NodeEvents
    from driver.observe import Metrics

logger = logging.getLogger(__name__)

NVIDIA_DRIVER = "gpu.nvidia.com"
"""The name of NVIDIA's DRA driver; by default ours as well, so that manifests need no change."""
DEVICE_PLUGIN_DIR = "device-plugins"
"""Below the kubelet's root directory."""
_RESOURCES = ("nvidia.com/gpu", "nvidia.com/mig-")

_NO_PLUGINS = {"kubelet.sock", "kubelet_internal_checkpoint", "DEPRECATION"}
"""The kubelet's own files in that directory."""

PERIOD = 5.0
NODE_PATIENCE = 30.0
"""Seconds. A server that is overloaded has requests wait for up to 15; who asks again after 5 makes it worse."""
NODE_LATER = 60.0
"""Seconds after which the Node has what a device plugin offers whose socket is new."""
RETRY = 1.0
RETRY_LONGEST = 15.0
PATIENCE = 3.0
"""How long a process that hangs on its socket may keep us from registering."""
QUIET = 120.0
"""Slices that nobody has written for so long are leftovers, not somebody's work."""
REMIND = 1800.0
"""Events are forgotten after an hour."""


class Neighbour(enum.StrEnum):
    """What else serves the GPUs."""

    DEVICE_PLUGIN = "device-plugin"
    DRA_DRIVER = "dra-driver"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """Why we think that another driver serves the node."""

    neighbour: Neighbour
    evidence: str
    """A sentence's end: what was seen, and where."""
    same_pool: bool = False
    """It publishes under our driver name: whatever we write, it removes, and the other way round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What reading the node has found."""

    plugin_sockets: tuple[str, ...] = ()
    """Sockets of NVIDIA's device plugin on which somebody listens."""
    instances: tuple[Instance, ...] = ()
    """Registration sockets under our driver name and NVIDIA's."""
    resources: Mapping[str, str] | None = None
    """Extended resources of the Node that a device plugin reports, with amounts; None if the Node was not read yet."""
    written: tuple[str, ...] = ()
    """Slices of our driver and node that somebody else writes at present."""


def judge(seen: Seen, *, driver_name: str) -> tuple[Sign, ...]:
    """Everything that speaks for another driver, most telling first."""
    signs = [
        Sign(
            neighbour=Neighbour.DRA_DRIVER,
            evidence=f"another DRA driver is registered as {found.name} on {found.socket}",
            same_pool=found.name == driver_name,
        )
        for found in seen.instances
        if found.kind is Kind.OTHER
    ]
    if seen.written:
        evidence = f"somebody else writes ResourceSlices of this driver and node: {', '.join(seen.written)}"
        signs.append(Sign(neighbour=Neighbour.DRA_DRIVER, evidence=evidence, same_pool=True))
    if seen.plugin_sockets:
        evidence = f"NVIDIA's device plugin listens on {', '.join(seen.plugin_sockets)}"
        signs.append(Sign(neighbour=Neighbour.DEVICE_PLUGIN, evidence=evidence))
    if seen.resources:
        amounts = ", ".join(f"{name}: {amount}" for name, amount in sorted(seen.resources.items()))
        evidence = f"a device plugin offers this Node's GPUs as {amounts} (status.allocatable)"
        signs.append(Sign(neighbour=Neighbour.DEVICE_PLUGIN, evidence=evidence))
    return tuple(signs)


def plugin_resources(node: Mapping[str, Any]) -> dict[str, str]:
    """NVIDIA's extended resources that a device plugin offers on a Node.

    A DeviceClass with ``extendedResourceName`` does not show here. A plugin that has gone leaves its capacity for five
    minutes, with nothing of it allocatable.
    """
    status = node.get("status") or {}
    amounts = {**(status.get("capacity") or {}), **(status.get("allocatable") or {})}
    return {
        name: str(amount)
        for name, amount in amounts.items()
        if name.startswith(_RESOURCES) and "/" in name and _positive(str(amount))
    }


def is_own_slice(name: str, *, driver_name: str, node_name: str) -> bool:
    """Whether a slice has the name that we give; the Go helper appends random letters to it."""
    index = name[:5]
    if not re.fullmatch("[0-9a-f]{5}", index):
        return False
    return name == slice_name(int(index, 16), driver_name=driver_name, node_name=node_name)


def tainted(slices: Sequence[Mapping[str, Any]], sign: Sign, *, driver_name: str) -> tuple[dict[str, Any], ...]:
    """The same slices, with a taint that keeps new claims off every device."""
    taint = {"key": f"{driver_name}/other-driver", "value": sign.neighbour.value, "effect": "NoSchedule"}
    return tuple(
        {
            **spec,
            "devices": [{**device, "taints": [*(device.get("taints") or []), taint]} for device in spec["devices"]],
        }
        if spec.get("devices")
        else dict(spec)
        for spec in slices
    )


class Existing(Protocol):
    """Whoever knows the slices of our driver and node on the API server."""

    @property
    def existing(self) -> Collection[Mapping[str, Any]] | None:
        """Whoever wrote them; None until they are known."""
        ...


class Coexistence:
    """Reads the node every few seconds. ``signs`` is what it has found, ``offer`` what may be published."""

    def __init__(
        self,
        api: Api,
        *,
        driver_name: str,
        node_name: str,
        plugins_dir: Path,
        registry_dir: Path,
        own_socket: Path,
        ignore: bool,
        publisher: Existing,
        changed: Callable[[], None],
        events: NodeEvents,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        period: float = PERIOD,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``own_socket`` is where we register; ``changed`` is called when what is found differs from before."""
        self._api = api
        self._driver = driver_name
        self._node = node_name
        self._plugin_dir = plugins_dir.parent / DEVICE_PLUGIN_DIR
        self._registry_dir = registry_dir
        self._ignore = ignore
        self._own_socket = own_socket
        self._registering = False
        """Whether the socket is ours, so that nobody needs to ask who is there."""
        self._publisher = publisher
        self._changed = changed
        self._events = events
        self._metrics = metrics
        self._clock = clock
        self._period = period
        self._sleep = sleep
        self._identified: dict[tuple[Path, int, int], Instance] = {}
        """By path, inode and time of creation: a process is asked once, not every five seconds."""
        self._resources: Mapping[str, str] | None = None
        self._plugins: frozenset[tuple[str, int]] = frozenset()
        """Names and inodes of the sockets of all device plugins, whatever they offer."""
        self._read_node_at = float("-inf")
        self._baseline: set[tuple[str, str]] | None = None
        self._written: dict[tuple[str, str], tuple[str, float]] = {}
        self._reminded = float("-inf")
        self._repeats = RepeatFilter()
        self._last: object = None
        self.signs: tuple[Sign, ...] = ()
        self.known = False
        """Whether everything has been looked at once."""

    @property
    def problem(self) -> str:
        """Why nothing new is offered; empty if nothing is in the way."""
        if self._ignore:
            return ""
        if not self.known:
            return "whether another driver serves this node's GPUs is not known yet"
        return "; ".join(sign.evidence for sign in self.signs)

    async def wait_to_register(self) -> None:
        """Return as soon as the kubelet would take nobody else for us. From then on the socket counts as ours."""
        while True:
            if await self.may_register():
                break
            await asyncio.sleep(self._period)
        self._registering = True

    async def may_register(self) -> bool:
        """Whether the kubelet would send us none of another driver's claims: it sends them to any driver of that name.

        Looks at sockets only, because registration must not wait for the API server.
        """
        if self._ignore:
            return True
        try:
            async with asyncio.timeout(PATIENCE):
                found = await self._instances()
        except TimeoutError:
            return True
        return not any(other.kind is Kind.OTHER and other.name == self._driver for other in found)

    def offer(self, slices: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]] | None:
        """What of these slices is to be published; None: leave everything on the API server as it is."""
        if self._ignore or (self.known and not self.signs):
            return slices
        if not self.known or any(sign.same_pool for sign in self.signs) or not self._have_published():
            return None
        return tainted(slices, self.signs[0], driver_name=self._driver)

    async def run(self) -> None:
        """Read for ever. Ends only by cancellation."""
        backoff, failures = Backoff(multiplier=RETRY, longest=RETRY_LONGEST), 0
        while True:
            await self.read()
            failures = 0 if self.known else failures + 1
            # Until the Node has been read, nothing is published; but a server that is overloaded is left in peace.
            await self._sleep(self._period if self.known else backoff.after(failures, None))

    async def read(self) -> None:
        """Read everything once, and report what is new. Never raises."""
        await self._read_node()
        seen = Seen(
            plugin_sockets=tuple(map(str, self._plugin_sockets())),
            instances=tuple(await self._instances()),
            resources=self._resources,
            written=self._foreign_slices(),
        )
        self.signs = judge(seen, driver_name=self._driver)
        self.known = seen.resources is not None
        outcome = (self.signs, self.known, self._have_published())
        if outcome != self._last:
            self._last = outcome
            for kind in Neighbour:
                self._metrics.other_drivers.labels(kind.value).set(any(sign.neighbour is kind for sign in self.signs))
            self._changed()
        self._say()

    def _say(self) -> None:
        now = self._clock()
        if not self.signs:
            if self._reminded != float("-inf"):
                self._reminded = float("-inf")
                logger.info("no other driver serves this node's GPUs any more")
            return
        if now - self._reminded < REMIND:
            return
        self._reminded = now
        found = "; ".join(sign.evidence for sign in self.signs)
        if self._ignore:
            outcome = "ResourceSlices are published all the same (--ignore-other-drivers): a GPU may get two users"
        elif self._have_published():
            outcome = "new claims are kept off our ResourceSlices until it is gone"
        else:
            outcome = "ResourceSlices are not published until it is gone"
        message = f"another driver serves this node's GPUs: {found}; {outcome}"
        logger.error("%s", message)
        self._events.warn("OtherDriver", message)

    async def _read_node(self) -> None:
        """Over the network, so only when it may have changed: no device plugin serves without a socket."""
        now, plugins = self._clock(), self._all_plugins()
        if plugins == self._plugins and now < self._read_node_at:
            return
        try:
            path = f"/api/v1/nodes/{self._node}"
            node = check_node(await self._api.get(path, timeout=NODE_PATIENCE), path)
        except ApiError as error:
            if self._repeats.is_news("", str(error)):
                logger.warning("what a device plugin offers on this Node is not known, trying again: %s", error)
            if error.transient or error.status in {200, 401}:  # 200: it cannot be read
                return  # what was seen last counts
            self._resources = {}
        else:
            self._repeats.over("")
            self._resources = plugin_resources(node)
        appeared = plugins - self._plugins
        self._plugins = plugins
        if self._resources:  # until it is gone
            self._read_node_at = now + self._period
        elif appeared:
            self._read_node_at = now + NODE_LATER
        elif now >= self._read_node_at:
            self._read_node_at = float("inf")

    def _all_plugins(self) -> frozenset[tuple[str, int]]:
        try:
            with os.scandir(self._plugin_dir) as entries:
                return frozenset((entry.name, entry.inode()) for entry in entries if entry.name not in _NO_PLUGINS)
        except OSError:
            return frozenset()

    def _plugin_sockets(self) -> list[Path]:
        try:
            found = sorted(self._plugin_dir.glob("nvidia*.sock"))
        except OSError:
            return []
        return [path for path in found if is_socket(path) and listened_to(path)]

    async def _instances(self) -> list[Instance]:
        names = dict.fromkeys((self._driver, NVIDIA_DRIVER))
        paths = [path for name in names for path in registrar_sockets(self._registry_dir, name)]
        known, found = {}, []
        for path in paths:
            try:
                status = path.lstat()
            except OSError:
                continue
            if (self._registering and path == self._own_socket) or not listened_to(path):
                continue
            key = (path, status.st_ino, status.st_ctime_ns)
            instance = self._identified.get(key) or await identify(path)
            if instance.kind is not Kind.SILENT:  # it may only be starting: asked again
                known[key] = instance
            found.append(instance)
        self._identified = known
        return found

    def _foreign_slices(self) -> tuple[str, ...]:
        """Names of slices that were written by somebody else since we look; older ones may be leftovers."""
        slices = self._publisher.existing
        if slices is None:
            return ()
        now = self._clock()
        foreign = {
            (obj["metadata"]["uid"], obj["metadata"]["resourceVersion"]): obj["metadata"]["name"]
            for obj in slices
            if not is_own_slice(obj["metadata"]["name"], driver_name=self._driver, node_name=self._node)
        }
        if self._baseline is None:
            self._baseline = set(foreign)
        for key, name in foreign.items():
            if key not in self._baseline:
                self._written.setdefault(key, (name, now))
        self._written = {key: value for key, value in self._written.items() if now - value[1] < QUIET}
        # Not forgotten before its time: an old one that is still there must not look new again.
        self._baseline |= set(foreign) - self._written.keys()
        self._baseline &= set(foreign)
        return tuple(sorted({name for name, _ in self._written.values()}))

    def _have_published(self) -> bool:
        return any(
            is_own_slice(obj["metadata"]["name"], driver_name=self._driver, node_name=self._node)
            for obj in self._publisher.existing or ()
        )


def _positive(amount: str) -> bool:
    try:
        return parse_quantity(amount) > 0
    except ValueError:
        return True
