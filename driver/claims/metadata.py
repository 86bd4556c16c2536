"""Device metadata files: what a container can read about the devices that it got.

One file for each request, mounted by the claim's CDI spec: a line of JSON for each version of the format, of which a
reader takes the first that it knows. They differ in nothing but their names.
Source: KEP-5304; ``metadata.resource.k8s.io/v1beta1`` and ``v1alpha1`` of Kubernetes' dynamic-resource-allocation.
"""

from __future__ import annotations

import json
import logging
import shutil
from typing import TYPE_CHECKING, Any

from driver.base import files
from driver.claims.allocation import TEMPLATES
from driver.hardware import ContainerEdits, Mount

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from driver.claims.allocation import ClaimRef
    from driver.claims.ledger.record import PreparedDevice, Record

logger = logging.getLogger(__name__)

VERSIONS = ("metadata.resource.k8s.io/v1beta1", "metadata.resource.k8s.io/v1alpha1")
"""Newest first: from Kubernetes 1.37 on, and 1.36."""


def stream(record: Record, request: str, published: Callable[[str], Mapping[str, Any]]) -> str:
    """The content of one request's file."""
    content = _content(record, request, published)
    return "".join(
        json.dumps({"kind": "DeviceMetadata", "apiVersion": version, **content}) + "\n" for version in VERSIONS
    )


def _content(record: Record, request: str, published: Callable[[str], Mapping[str, Any]]) -> dict[str, Any]:
    claim = record.claim
    content: dict[str, Any] = {
        "metadata": {"name": claim.name, "namespace": claim.namespace, "uid": claim.uid, "generation": 1},
    }
    alternative = next((device.subrequest for device in record.devices if request in device.requests), "")
    full = f"{request}/{alternative}" if alternative else request
    directory = record.metadata or ""
    if f"/{TEMPLATES}/" in directory:
        content["podClaimName"] = directory.rsplit("/", 1)[-1]
    devices = [
        {
            "driver": record.driver,
            "pool": device.pool,
            "name": device.device,
            "attributes": dict(published(device.device).get("attributes") or {}),
        }
        for device in record.devices
        if request in device.requests
    ]
    return {**content, "requests": [{"name": full, "devices": devices}]}


class MetadataFiles:
    """The files on the host. A file that cannot be written is logged, and the claim succeeds without it."""

    def __init__(self, directory: Path, *, published: Callable[[str], Mapping[str, Any]]) -> None:
        self._directory = directory
        self._published = published

    def open(self) -> None:
        """Create the directory."""
        try:
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            logger.error("device metadata cannot be written to %s: %s", self._directory, error.strerror)

    def write(self, record: Record) -> None:
        """Write the files of a claim, if it is to have any."""
        if record.metadata is None:
            return
        for request in _requests(record):
            path = self._path(record.claim, request)
            try:
                path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                files.replace(str(path), stream(record, request, self._published).encode())
            except OSError as error:
                logger.error("claim %s has no device metadata: %s", record.claim, error)

    def edits(self, record: Record, device: PreparedDevice) -> ContainerEdits:
        """The mounts that come with a device: those of the requests whose first device it is."""
        if record.metadata is None:
            return ContainerEdits()
        mounts = []
        for request in device.requests:
            path = self._path(record.claim, request)
            first = next(other for other in record.devices if request in other.requests)
            # A mount without its source would keep the container from starting.
            if first == device and path.exists():
                target = f"{record.metadata}/{request}/{record.driver}-metadata.json"
                mounts.append(Mount(host_path=str(path), container_path=target, options=("ro", "bind")))
        return ContainerEdits(mounts=tuple(mounts))

    def remove(self, claim: ClaimRef) -> None:
        """Remove the files of a claim."""
        self.discard(claim.uid)

    def claim_uids(self) -> set[str]:
        """UIDs of all claims that have files. Raises OSError."""
        if not self._directory.exists():
            return set()
        return {path.name for path in self._directory.iterdir()}

    def discard(self, uid: str) -> None:
        """Remove the files of the claim with this UID."""
        shutil.rmtree(self._directory / uid, ignore_errors=True)

    def _path(self, claim: ClaimRef, request: str) -> Path:
        return self._directory / claim.uid / request / "metadata.json"


def _requests(record: Record) -> list[str]:
    return list(dict.fromkeys(request for device in record.devices for request in device.requests))
