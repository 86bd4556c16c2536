"""What is written down for one prepared claim, and how: pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from driver.claims.allocation import ClaimRef

SCHEMA = 1


class DamagedRecordError(Exception):
    """A record's bytes cannot be understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDevice:
    """One device of a prepared claim: the kubelet's answer for it, and which hardware it is."""

    requests: tuple[str, ...]
    """Base request names; what pods refer to."""
    pool: str
    device: str
    cdi_ids: tuple[str, ...]
    gpu_uuid: str
    share_id: str | None = None
    admin: bool = False

    @property
    def exclusive(self) -> bool:
        """Whether nobody else may hold the GPU meanwhile."""
        return not self.admin and self.share_id is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All that is known of one prepared claim."""

    claim: ClaimRef
    allocation: str
    """Fingerprint of the allocation that this record was made for."""
    boot_id: str
    devices: tuple[PreparedDevice, ...]
    prepared_at: str
    """RFC 3339."""
    unknown: dict[str, Any] = field(default_factory=dict)
    """Fields of a newer version; they are kept, so that an upgrade after a downgrade finds them again."""


def encode(record: Record) -> bytes:
    """The file's content."""
    devices = [
        {
            "requests": device.requests,
            "pool": device.pool,
            "device": device.device,
            "cdiDeviceIDs": device.cdi_ids,
            "gpuUUID": device.gpu_uuid,
            **({"shareID": device.share_id} if device.share_id is not None else {}),
            **({"admin": True} if device.admin else {}),
        }
        for device in record.devices
    ]
    claim = record.claim
    return json.dumps(
        {
            **record.unknown,
            "schema": SCHEMA,
            "claim": {"namespace": claim.namespace, "name": claim.name, "uid": claim.uid},
            "allocation": record.allocation,
            "bootID": record.boot_id,
            "devices": devices,
            "preparedAt": record.prepared_at,
        },
        indent=1,
    ).encode()


def decode(data: bytes, *, uid: str) -> Record:
    """Read a file's content. Raises DamagedRecordError, also for a record that belongs to another UID."""
    try:
        raw = json.loads(data)
        known = {"schema", "claim", "allocation", "bootID", "devices", "preparedAt"}
        record = Record(
            claim=ClaimRef(raw["claim"]["namespace"], raw["claim"]["name"], raw["claim"]["uid"]),
            allocation=raw["allocation"],
            boot_id=raw["bootID"],
            devices=tuple(
                PreparedDevice(
                    requests=tuple(device["requests"]),
                    pool=device["pool"],
                    device=device["device"],
                    cdi_ids=tuple(device["cdiDeviceIDs"]),
                    gpu_uuid=device["gpuUUID"],
                    share_id=device.get("shareID"),
                    admin=device.get("admin", False),
                )
                for device in raw["devices"]
            ),
            prepared_at=raw["preparedAt"],
            unknown={key: value for key, value in raw.items() if key not in known},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedRecordError(f"{type(error).__name__}: {error}") from error
    if record.claim.uid != uid:
        raise DamagedRecordError(f"it belongs to claim UID {record.claim.uid}")
    return record
