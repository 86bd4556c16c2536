"""Names of the directories in the driver's own directory; docs/records.md says what each is for."""

from __future__ import annotations

CLAIMS = "claims"
ENDED = "ended"
ACCOUNTS = "gpu-time.json"
QUARANTINE = "quarantine"
METADATA = "dra-device-metadata"
INSTANCES = "instances"
MPS = "mps"
