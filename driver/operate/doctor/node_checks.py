"""A node seen from its own file system: pure, one question for each function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.claims import State
from driver.inventory import Instance, Kind
from driver.operate.doctor.findings import Finding, ok, problem, unknown, warning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from driver.operate.doctor.state import NodeState, Place

    Check = Callable[[NodeState], Iterable[Finding]]


def directories(state: NodeState) -> Iterable[Finding]:
    """The three directories that driver, kubelet and container runtime share."""
    roles = (
        (state.plugins, "the kubelet's plugins directory", "--kubelet-plugins-dir"),
        (state.registry, "the kubelet's registration directory", "--kubelet-registry-dir"),
        (state.cdi, "the CDI directory", "--cdi-root"),
    )
    bad = [finding for place, role, flag in roles for finding in _place(place, role, flag)]
    yield from bad
    if not bad:
        paths = ", ".join(str(place.path) for place, _, _ in roles)
        yield ok("directories", f"kubelet and container runtime see what is written to {paths}", about=state.node_name)


def _place(place: Place, role: str, flag: str) -> Iterable[Finding]:
    about = str(place.path)
    mount = f"mount the host's directory at the same path into the driver's container (hostPath), and check {flag}"
    if place.error:
        yield problem("directories", f"{role} {place.path} cannot be looked at: {place.error}", mount, about=about)
    elif not place.exists:
        yield problem("directories", f"{role} {place.path} does not exist", mount, about=about)
    elif place.own_layer:
        sentence = (
            f"{role} {place.path} is inside the driver's own container: nobody outside sees what is written there"
        )
        yield problem("directories", sentence, mount, about=about)
    elif not place.writable:
        sentence = f"{role} {place.path} cannot be written"
        yield problem("directories", sentence, "mount it without readOnly, and run as root", about=about)


def runtime(state: NodeState) -> Iterable[Finding]:
    """Whether the container runtime reads CDI specs where they are written."""
    if not state.runtimes:
        yield unknown(
            "runtime",
            f"whether the container runtime looks into {state.cdi.path} is not known: no configuration is here",
        )
    for config in state.runtimes:
        about = str(config.path)
        if config.enabled is False:
            yield problem(
                "runtime",
                f"CDI is switched off in {config.path}: containers start without their GPUs",
                "set enable_cdi = true in it and restart the container runtime",
                about=about,
            )
        elif config.spec_dirs is not None and not _covers(config.spec_dirs, state.cdi.path.parts):
            yield problem(
                "runtime",
                f"{config.path} lists the CDI directories {', '.join(config.spec_dirs) or 'none'}, and not "
                f"{state.cdi.path}: containers fail with 'unresolvable CDI devices'",
                f"add {state.cdi.path} to it and restart the container runtime, or start the driver with --cdi-root",
                about=about,
            )
        else:
            yield ok("runtime", f"{config.path} has the runtime look into {state.cdi.path}", about=about)


def _covers(spec_dirs: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    # /var/run is a link to /run everywhere.
    def plain(parts: tuple[str, ...]) -> str:
        return "/".join(parts).replace("//", "/").replace("/var/run/", "/run/")

    return plain(wanted) in {plain((directory.rstrip("/"),)) for directory in spec_dirs}


def registration(state: NodeState) -> Iterable[Finding]:
    """Whether an instance of the driver serves the kubelet."""
    about = state.node_name
    serving = [found for found in state.instances if found.kind is Kind.OURS]
    for found in state.instances:
        if found.kind is Kind.DEAD:
            yield warning(
                "registration",
                f"{found.socket} was left behind by an instance that was killed; the kubelet goes on dialling it",
                "the next start of the driver removes it, gpu-dra cleanup too",
                about=str(found.socket),
            )
        elif found.kind is Kind.SILENT:
            yield problem(
                "registration",
                f"the driver that listens on {found.socket} does not answer: {found.problem}",
                "look at the log of its pod; the liveness probe restarts it, deleting the pod does it at once",
                about=str(found.socket),
            )
    if serving:
        names = ", ".join(str(found.socket) for found in serving)
        yield ok(
            "registration",
            f"{_count(len(serving), 'instance')} of the driver answer{_s(serving)} on {names}",
            about=about,
        )
    elif not any(found.kind is Kind.SILENT for found in state.instances):
        yield problem(
            "registration",
            f"no instance of {state.driver_name} serves this node: pods with claims neither start nor end",
            "is the driver's pod running here (kubectl get pods -A -o wide)? Its log says why it does not start; "
            "--driver-name, --kubelet-registry-dir and the kubelet's root directory have to be the same everywhere",
            about=about,
        )


def _s(items: list[Instance]) -> str:
    return "s" if len(items) == 1 else ""


def readiness(state: NodeState) -> Iterable[Finding]:
    """What the driver itself says is missing."""
    if state.not_ready is None:
        return
    for missing in state.not_ready:
        what, _, why = missing.partition(": ")
        yield problem(
            "readiness",
            f"the driver says that it is not ready: {what}: {why}",
            _READINESS.get(what, "see its log"),
            about=what,
        )
    if not state.not_ready:
        yield ok(
            "readiness", "the driver says that it is registered and has published its slices", about=state.node_name
        )


def offer(state: NodeState) -> Iterable[Finding]:
    """What the driver cannot offer as the settings ask for."""
    for uuid, why in state.not_offered.items():
        yield warning(
            "offer",
            f"GPU {uuid} is not offered as asked for: {why}",
            "the node config, or the MIG mode and MIG devices of that GPU (nvidia-smi mig -lgi): docs/partitions.md",
            about=uuid,
        )


_READINESS = {
    "kubelet": "is the kubelet running, and does it use the same --kubelet-registry-dir? It registers within seconds",
    "devices": "see what is said of the hardware below",
    "node": "mend that; the driver looks again every few seconds, and needs no restart",
    "slices": "see what is said of permissions and of other drivers; the driver's log has the server's own words",
}


def kubelet(state: NodeState) -> Iterable[Finding]:
    """Whether the kubelet lives."""
    if state.kubelet_listens is False:
        yield problem(
            "kubelet",
            "the kubelet does not listen on its own sockets: it does not run, so nothing starts or ends on this node",
            "look at it on the host: systemctl status kubelet; journalctl -u kubelet",
            about=state.node_name,
        )
    elif state.kubelet_listens is None:
        yield unknown("kubelet", "whether the kubelet runs is not known: its own sockets are not visible from here")
    else:
        yield ok("kubelet", "the kubelet listens on its sockets", about=state.node_name)


def other_drivers(state: NodeState) -> Iterable[Finding]:
    """NVIDIA's device plugin and NVIDIA's own DRA driver on the same node."""
    found = False
    if state.plugin_sockets:
        found = True
        yield problem(
            "other-drivers",
            f"NVIDIA's device plugin serves this node ({', '.join(map(str, state.plugin_sockets))}): the scheduler "
            "would hand each GPU out twice, so this driver keeps back",
            "keep one of the two off this node (docs/migration.md), or start the driver with --ignore-other-drivers",
            about="device-plugin",
        )
    for other in state.instances:
        if other.kind is Kind.OTHER:
            found = True
            yield problem(
                "other-drivers",
                f"another DRA driver is registered as {other.name} on {other.socket}; of two with one name the kubelet "
                "sends either one the other's claims",
                "keep one of the two off this node (docs/migration.md); NVIDIA's ComputeDomains can stay: "
                "resources.gpus.enabled=false in its chart (docs/compute-domains.md)",
                about="dra-driver",
            )
    if state.foreign_files:
        found = True
        yield warning(
            "other-drivers",
            f"NVIDIA's DRA driver was here and left {', '.join(map(str, state.foreign_files))}; what it prepared "
            "before may still be in use, and MIG devices that it made stay",
            "drain the node once, then delete these files and destroy what nvidia-smi mig -lgi still shows",
            about="dra-driver",
        )
    if not found:
        yield ok("other-drivers", "no other driver of these GPUs is on this node", about=state.node_name)
    if state.compute_domain_sockets:
        sockets = ", ".join(map(str, state.compute_domain_sockets))
        sentence = f"NVIDIA's driver of ComputeDomains is registered too, on {sockets}: it has no GPUs to give away"
        yield ok("other-drivers", sentence, about="compute-domains")


def hardware(state: NodeState) -> Iterable[Finding]:
    """Whether the GPUs can be read."""
    seen = state.hardware
    if seen.problem:
        yield problem(
            "hardware",
            f"no GPUs can be read (--devices {state.devices}): {seen.problem}",
            "is NVIDIA's driver loaded on the host (nvidia-smi there), and its root mounted into the driver's "
            "container? The driver asks again by itself",
            about=state.node_name,
        )
        return
    for defect in seen.defects:
        yield problem("hardware", defect.why, defect.remedy, about=defect.kind)
    if not seen.gpus:
        yield warning(
            "hardware",
            "NVIDIA's driver runs, and shows no GPU",
            "lspci | grep -i nvidia on the host; keep the driver off nodes without GPUs with a node selector",
            about=state.node_name,
        )
    else:
        yield ok(
            "hardware", f"{_count(len(seen.gpus), 'GPU')} can be read: {', '.join(seen.gpus)}", about=state.node_name
        )


def records(state: NodeState) -> Iterable[Finding]:
    """Claims on disk."""
    damaged = [holder for holder in state.holders if holder.claim is None]
    undoing = [holder for holder in state.holders if holder.state == State.UNDOING]
    for holder in damaged:
        yield warning(
            "records", f"{holder}", "the driver sets it aside when it reads it; see docs/records.md", about=holder.uid
        )
    for path in state.quarantined:
        yield warning(
            "records",
            f"a damaged record was set aside as {path}",
            "see docs/records.md, a quarantined record; delete the file when nothing uses its devices any more",
            about=str(path),
        )
    for holder in undoing:
        yield warning(
            "records",
            f"what was made for {holder.claim} is not undone yet: {', '.join(holder.devices)}",
            "the driver tries again every 10 s; its log says what the hardware answers",
            about=str(holder.claim),
        )
    for holder in state.without_spec:
        yield warning(
            "records",
            f"{holder.claim} is prepared, and its CDI spec is gone from {state.cdi.path}: its containers cannot be "
            "restarted",
            "restart the driver's pod here: it writes missing specs when it starts",
            about=str(holder.claim),
        )
    for path in state.stray_specs:
        yield warning(
            "records",
            f"the CDI spec {path} belongs to no claim",
            "the driver removes it within minutes; gpu-dra cleanup does where no driver runs",
            about=str(path),
        )
    if not (damaged or state.quarantined or undoing or state.without_spec or state.stray_specs):
        yield ok(
            "records", f"{_count(len(state.holders), 'claim')} prepared, all records in order", about=state.node_name
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def nothing(state: NodeState) -> Iterable[Finding]:
    """The driver's page, where it cannot be had."""
    if state.not_ready is None and any(found.kind is Kind.OURS for found in state.instances):
        yield unknown(
            "readiness", "the driver's status page cannot be had from here (--http-port)", about=state.node_name
        )


CHECKS: tuple[Check, ...] = (
    directories,
    runtime,
    kubelet,
    registration,
    readiness,
    nothing,
    hardware,
    offer,
    other_drivers,
    records,
)


def judge(state: NodeState) -> list[Finding]:
    """All findings about a node."""
    return [finding for check in CHECKS for finding in check(state)]
