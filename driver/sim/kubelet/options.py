"""Every delay and switch of the embedded kubelet: the reactions are the real one's, without its waiting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Durations are seconds; in parentheses those of the real kubelet, where they are others."""

    reconcile_period: float = 0.05
    """Between two looks of the plugin manager at what the watcher saw (1)."""
    dial_timeout: float = 10.0
    get_info_timeout: float = 1.0
    notify_timeout: float = 5.0
    registration_backoff: float = 0.1
    """Doubles with each failure of a socket, up to ``registration_backoff_max`` (0.5 to 122)."""
    registration_backoff_max: float = 2.0
    rpc_timeout: float = 45.0
    """Deadline of NodePrepareResources and NodeUnprepareResources."""
    connect_backoff: float = 0.1
    """Before a lost connection to a plugin is tried again; grows up to ``connect_backoff_max`` (1 to 120)."""
    connect_backoff_max: float = 0.5
    wiping_delay: float = 3.0
    """How long a driver may have no connected instance before its slices are deleted (30)."""
    wipe_backoff: float = 0.2
    health_reopen: float = 0.5
    """Between the end of a health stream and the next attempt (5)."""
    resync: float = 1.0
    """Until a pod is looked at again (also after a failed prepare), times 1 to 1.5 (60)."""
    backoff: float = 0.5
    """After a failed unprepare or a container that could not be created, times 1 to 1.5 (10)."""
    claim_reconcile: float = 1.0
    """Between two searches for claims of pods that are no more (60)."""
    crash_backoff: float = 0.5
    """Before the first restart of a container; doubles up to ``crash_backoff_max`` (10 to 300)."""
    crash_backoff_max: float = 5.0
    crash_backoff_reset: float = 600.0
    """A container that ran this long starts with the first delay again."""
    node_status_period: float = 5.0

    on_shutdown: Literal["stop", "leave"] = "stop"
    """What happens to containers when ``Kubelet.run`` is cancelled; those left are adopted by the next kubelet."""
