"""Every delay and switch of the embedded kubelet; the defaults are the real one's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Durations are seconds."""

    reconcile_period: float = 1.0
    """Between two looks of the plugin manager at what the watcher saw."""
    dial_timeout: float = 10.0
    get_info_timeout: float = 1.0
    notify_timeout: float = 5.0
    registration_backoff: float = 0.5
    """Doubles with each failure of a socket, up to ``registration_backoff_max``."""
    registration_backoff_max: float = 122.0
    rpc_timeout: float = 45.0
    """Deadline of NodePrepareResources and NodeUnprepareResources."""
    connect_backoff: float = 1.0
    """First delay before a lost connection to a plugin is tried again; grows up to ``connect_backoff_max``."""
    connect_backoff_max: float = 120.0
    wiping_delay: float = 30.0
    """How long a driver may have no connected instance before its slices are deleted."""
    wipe_backoff: float = 1.0
    health_reopen: float = 5.0
    """Between the end of a health stream and the next attempt."""
    resync: float = 60.0
    """Until a pod is looked at again (also after a failed prepare), times 1 to 1.5."""
    backoff: float = 10.0
    """After a failed unprepare or a container that could not be created, times 1 to 1.5."""
    claim_reconcile: float = 60.0
    """Between two searches for claims of pods that are no more."""
    crash_backoff: float = 10.0
    """Before the first restart of a container; doubles up to ``crash_backoff_max``."""
    crash_backoff_max: float = 300.0
    crash_backoff_reset: float = 600.0
    """A container that ran this long starts with the first delay again."""
    node_status_period: float = 10.0

    on_shutdown: Literal["stop", "leave"] = "stop"
    """What happens to containers when ``Kubelet.run`` is cancelled; those left are adopted by the next kubelet."""

    @classmethod
    def quick(cls, **changes: Any) -> Options:
        """Timers for tests and demos: the same reactions, without the waiting."""
        return replace(
            cls(
                reconcile_period=0.05,
                registration_backoff=0.1,
                registration_backoff_max=2.0,
                connect_backoff=0.1,
                connect_backoff_max=0.5,
                wiping_delay=3.0,
                wipe_backoff=0.2,
                health_reopen=0.5,
                resync=1.0,
                backoff=0.5,
                claim_reconcile=1.0,
                crash_backoff=0.5,
                crash_backoff_max=5.0,
                node_status_period=5.0,
            ),
            **changes,
        )
