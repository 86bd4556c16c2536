"""``gpu-dra fault``: change the state of fake hardware while a driver runs on it, or before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.hardware.fake.change import ChangeError, changed, find
from driver.hardware.fake.state_file import MAX_FAILURES, MAX_LATENCY_MS, MAX_XIDS, GpuState
from driver.hardware.model import NO_ACTION

if TYPE_CHECKING:
    from pathlib import Path

MAX_XID = 1023
ACTIONS = (NO_ACTION, "gpu-reset", "node-reboot", "drain-p2p", "drain-and-reset")
NO_ACCOUNT = "unknown"


def inject(
    state_dir: Path,
    *,
    boot_id: str,
    device: str,
    xid: int | None = None,
    lost: bool = False,
    ecc: bool = False,
    recovery: str | None = None,
    quiet: bool = False,
    clear: bool = False,
    latency_ms: int | None = None,
    fail_next: int | None = None,
) -> str:
    """Change what is wrong with one fake GPU; what it had already stays, unless ``clear`` says otherwise.

    Args:
        state_dir: where the driver with the fake devices keeps its state, its plugin directory.
        boot_id: the node's present boot: faults of an earlier one are gone.
        device: a device name (``gpu-3``) or a GPU's UUID.
        xid: an XID that happens now.
        lost: the GPU falls off the bus.
        ecc: an uncorrectable memory error.
        recovery: what the GPU asks for to get over its errors from now on; ``unknown``: it gives no account any more.
        quiet: there is no error for a while: what ended with a program is over, and all where it asks for nothing.
        clear: mend everything first, as a reset does.
        latency_ms: how long hardware operations on this GPU take from now on; 0 ends it.
        fail_next: how many hardware operations on this GPU fail from now on; 0 ends it.

    Returns:
        What the GPU's state is now, for people.

    Raises:
        ChangeError: nothing was changed.
    """
    _check(
        xid=xid, latency_ms=latency_ms, fail_next=fail_next, anything=lost or ecc or quiet or clear, recovery=recovery
    )
    with changed(state_dir, boot_id=boot_id) as state:
        uuid = state.now.devices[find(state.now, device)]
        gpu = GpuState() if clear else state.now.gpus.get(uuid, GpuState())
        gpu = GpuState(
            xids=(*gpu.xids, xid)[-MAX_XIDS:] if xid is not None else gpu.xids,
            ecc=gpu.ecc or ecc,
            lost=gpu.lost or lost,
            recovery=gpu.recovery if recovery is None else None if recovery == NO_ACCOUNT else recovery,
            quiet=quiet or (gpu.quiet and xid is None and not ecc),
            latency_ms=gpu.latency_ms if latency_ms is None else latency_ms,
            fail_next=gpu.fail_next if fail_next is None else fail_next,
        )
        gpus = {key: value for key, value in {**state.now.gpus, uuid: gpu}.items() if value != GpuState()}
        state.now = state.now.model_copy(update={"gpus": gpus})
    return f"{device}: {_describe(gpu)}"


def _check(
    *, xid: int | None, latency_ms: int | None, fail_next: int | None, recovery: str | None, anything: bool
) -> None:
    """Raises ChangeError for what cannot be; ``anything``: whether there is something to do besides the numbers."""
    if xid is None and latency_ms is None and fail_next is None and recovery is None and not anything:
        raise ChangeError(
            "nothing to do: one of --xid N, --lost, --ecc, --recovery ACTION, --quiet, --latency-ms N, --fail-next N, "
            "--clear is expected"
        )
    if recovery is not None and recovery not in (*ACTIONS, NO_ACCOUNT):
        raise ChangeError(f"--recovery {recovery}: one of {', '.join((*ACTIONS, NO_ACCOUNT))} is expected")
    if xid is not None and not 1 <= xid <= MAX_XID:
        raise ChangeError(f"--xid {xid}: a number from 1 to {MAX_XID} is expected")
    if latency_ms is not None and not 0 <= latency_ms <= MAX_LATENCY_MS:
        raise ChangeError(f"--latency-ms {latency_ms}: milliseconds from 0 to {MAX_LATENCY_MS} are expected")
    if fail_next is not None and not 0 <= fail_next <= MAX_FAILURES:
        raise ChangeError(f"--fail-next {fail_next}: a number from 0 to {MAX_FAILURES} is expected")


def _describe(gpu: GpuState) -> str:
    words = [f"XID {xid}" for xid in dict.fromkeys(gpu.xids)]
    if gpu.ecc:
        words.append("uncorrectable ECC error")
    if gpu.lost:
        words.append("lost")
    if gpu.recovery is not None:
        words.append(f"asks for {gpu.recovery}")
    if gpu.quiet:
        words.append("no error for a while")
    if gpu.latency_ms:
        words.append(f"hardware slower by {gpu.latency_ms} ms")
    if gpu.fail_next:
        words.append(f"the next {gpu.fail_next} hardware operations fail")
    return ", ".join(words) or "well"
