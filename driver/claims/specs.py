"""The CDI spec and the metadata files of a claim, from its record: a pure function of it, and where that is kept."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from driver.cdi import SpecError, render_spec, unqualified_name
from driver.claims.errors import ClaimError, Reason
from driver.claims.ledger.record import State
from driver.claims.sharing import client_limits
from driver.hardware import BackendError, sharer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from driver.cdi import SpecDirectory
    from driver.claims.allocation import ClaimRef
    from driver.claims.ledger.record import PreparedDevice, Record
    from driver.claims.metadata import MetadataFiles
    from driver.hardware import Backend, ContainerEdits, Gpu
    from driver.inventory import Device
    from driver.observe import Metrics


class ClaimSpecs:
    """What containers find of a claim. All methods raise ClaimError."""

    def __init__(
        self, directory: SpecDirectory, *, driver_name: str, metrics: Metrics, metadata: MetadataFiles | None
    ) -> None:
        self.directory = directory
        self._driver = driver_name
        self._metrics = metrics
        self._metadata = metadata

    @property
    def with_metadata(self) -> bool:
        """Whether containers get files with the devices' attributes."""
        return self._metadata is not None

    def settled(self, ref: ClaimRef) -> bool:
        """Whether the spec of a claim is in place."""
        with self._about("write", ref):
            return self.directory.settled(ref.uid)

    def read(self, ref: ClaimRef) -> bytes | None:
        """The spec of a claim, None where there is none."""
        with self._about("read", ref):
            return self.directory.read(ref.uid)

    def check(self, record: Record, backend: Backend, devices: Mapping[str, Device]) -> None:
        """Refuse what would come to containers that do not start; before anything is changed for the claim."""
        for device in record.devices:
            if (defect := devices[device.device].defect) is not None:
                message = f"claim {record.claim} cannot be prepared: {device.device}: {defect.why}"
                raise ClaimError(Reason.HARDWARE, message)
        if record.state is State.PREPARING:  # hardware takes long: not for a spec that cannot be written
            with self._about("write", record.claim):
                self.directory.probe()
        if missing := backend.missing_file():
            raise ClaimError(
                Reason.HARDWARE,
                f"claim {record.claim} cannot be prepared now: its containers need {missing}, which is gone from the "
                "node. NVIDIA's driver is being replaced there; the kubelet tries again until that is done",
            )

    def write(self, record: Record, backend: Backend, devices: Mapping[str, Device]) -> None:
        """Write what a record says."""
        with self._metrics.phase("cdi"):
            try:
                content = self._content(record, backend, devices)
            except BackendError as error:
                raise ClaimError(Reason.HARDWARE, f"claim {record.claim}: {error}") from error
            with self._about("write", record.claim):
                self.directory.write(record.claim.uid, content)

    def renew(self, record: Record, backend: Backend, devices: Mapping[str, Device]) -> bool:
        """Write a spec that is missing or out of date, and the files that it mounts; whether it was.

        Raises BackendError as well, where it cannot be said what it should be.
        """
        content = self._content(record, backend, devices)
        if self.settled(record.claim) and self.read(record.claim) == content:
            return False
        with self._about("write", record.claim):
            self.directory.write(record.claim.uid, content)
        return True

    def remove(self, ref: ClaimRef) -> None:
        """Remove the spec of a claim, if there is one."""
        with self._about("remove", ref):
            if self.directory.exists(ref.uid):  # a directory that is read-only refuses even what has nothing to do
                self.directory.remove(ref.uid)

    def forget(self, ref: ClaimRef) -> None:
        """Remove the metadata files of a claim."""
        if self._metadata:
            self._metadata.remove(ref)

    @contextlib.contextmanager
    def _about(self, verb: str, ref: ClaimRef) -> Iterator[None]:
        """Say which file of which claim an error is about."""
        try:
            yield
        except OSError as error:
            path = self.directory.path(ref.uid)
            raise ClaimError(Reason.CDI, f"cannot {verb} CDI spec {path}: {error.strerror}") from error

    def _content(self, record: Record, backend: Backend, devices: Mapping[str, Device]) -> bytes:
        if self._metadata:  # first, as only files that are there are mounted
            self._metadata.write(record)
        return self._render(record, backend, devices)

    def _render(self, record: Record, backend: Backend, devices: Mapping[str, Device]) -> bytes:
        try:
            return render_spec(
                self._driver,
                backend.common_edits(),
                {
                    unqualified_name(cdi_id): self._edits(record, device, backend, devices)
                    # Former versions had one name for what a claim both uses and looks at: it is to be used.
                    for device in sorted(record.devices, key=lambda device: not device.admin)
                    for cdi_id in device.cdi_ids
                },
            )
        except SpecError as error:
            raise ClaimError(Reason.CDI, f"claim {record.claim}: {error}") from error

    def _edits(
        self, record: Record, device: PreparedDevice, backend: Backend, devices: Mapping[str, Device]
    ) -> ContainerEdits:
        edits = backend.device_edits(_gpu(device, devices), device.partition)
        if device.sharing is not None and device.sharing.daemon:
            more = sharer(backend).mps_edits(device.sharing.daemon, client_limits(device))
            edits = replace(edits, env=edits.env + more.env, mounts=edits.mounts + more.mounts)
        if self._metadata:
            edits = replace(edits, mounts=edits.mounts + self._metadata.edits(record, device).mounts)
        return edits


def _gpu(device: PreparedDevice, devices: Mapping[str, Device]) -> Gpu:
    """The GPU of a device by its UUID, whatever it is called now. Raises BackendError."""
    known = devices.get(device.device)
    if known is not None and known.gpu.uuid == device.gpu_uuid:
        return known.gpu
    found = next((other.gpu for other in devices.values() if other.gpu.uuid == device.gpu_uuid), None)
    if found is None:
        raise BackendError(f"{device.device} ({device.gpu_uuid}) is not there any more")
    return found
