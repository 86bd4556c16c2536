"""What others do to the CDI root under a running driver: it cannot be written to any more, or specs are gone from it.

The kubelet does not ask again for a claim that it knows as prepared, while every container that starts needs the spec.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from driver.claims.ledger.record import State
from driver.hardware import Defect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from driver.cdi import SpecDirectory
    from driver.claims.allocation import ClaimRef
    from driver.claims.engine import Engine
    from driver.claims.ledger.records import Records
    from driver.inventory import Defects, Devices
    from driver.kube import NodeEvents

PERIOD = 2.0
ROOT_EVERY = 5
"""So many checks of the specs, one listing each, to one of the directory itself, which writes a file."""


class CdiWatch:
    """Sees, and tells whom it concerns: those who publish, those who renew specs, and an operator."""

    def __init__(
        self,
        specs: SpecDirectory,
        *,
        records: Records,
        engine: Engine,
        devices: Devices,
        defects: Defects,
        events: NodeEvents,
        period: float = PERIOD,
    ) -> None:
        self._specs = specs
        self._records = records
        self._engine = engine
        self._devices = devices
        self._defects = defects
        self._events = events
        self._period = period
        self._missing: set[str] = set()
        self._lost: set[str] = set()

    async def run(self) -> None:
        """Watch until it is cancelled."""
        while True:
            self.check_root()
            for _ in range(ROOT_EVERY):
                self.check_specs()
                await asyncio.sleep(self._period)

    def check_root(self) -> None:
        """Whether specs can be written; while they cannot, no new claim gets a device of this node."""
        found = []
        try:
            self._specs.probe()
            self._specs.claim_uids()
        except OSError as error:
            why = f"CDI specs cannot be written: {error.filename}: {error.strerror}"
            found.append(Defect(kind="cdi-root", why=why, blocks=True))
        if self._defects.found("cdi", *found):
            self._devices.publish_again.set()
            self._devices.specs_again.set()

    def check_specs(self) -> None:
        """Whether prepared claims have their specs.

        What is missing for the first time may be a claim that begins or ends just now; what cannot be written is known.
        """
        prepared = {
            record.claim.uid: record.claim
            for record in self._records
            if record.boot_id == self._records.boot_id and record.state is State.PREPARED
        }
        try:
            missing = prepared.keys() - self._specs.claim_uids() if prepared else set()
        except FileNotFoundError:  # with the whole directory
            missing = set(prepared)
        except OSError:  # the node's defect
            return
        back = [prepared[uid] for uid in self._lost - missing if uid in prepared]
        news = (missing & self._missing) - self._engine.unsettled
        self._lost, self._missing = self._lost & missing | news, missing
        if news:
            self._devices.specs_again.set()
        if back:
            self._tell(back)

    def _tell(self, back: Iterable[ClaimRef]) -> None:
        claims = sorted(str(claim) for claim in back)
        more = f" and {len(claims) - 5} more" if len(claims) > 5 else ""
        self._events.warn(
            "LostCdiSpec",
            f"the CDI specs of {', '.join(claims[:5])}{more} were gone from {self._specs.root} and were written again; "
            "see what removes files there: a container that starts without its spec fails",
        )
