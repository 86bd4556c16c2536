"""ResourceClaims: what is ours in them, and the engine that prepares and unprepares them."""

from driver.claims.allocation import ClaimRef
from driver.claims.chores.status import StatusWriter
from driver.claims.chores.sweep import Sweeper
from driver.claims.chores.watch_cdi import CdiWatch
from driver.claims.engine import Engine
from driver.claims.errors import ClaimError
from driver.claims.ledger.codec import DamagedRecordError, decode
from driver.claims.ledger.damage import SpecHolds
from driver.claims.ledger.holders import holds
from driver.claims.ledger.holdings import RecordedHoldings
from driver.claims.ledger.record import PreparedDevice, Record, State
from driver.claims.ledger.records import Records
from driver.claims.metadata import MetadataFiles

__all__ = [
    "CdiWatch",
    "ClaimError",
    "ClaimRef",
    "DamagedRecordError",
    "Engine",
    "MetadataFiles",
    "PreparedDevice",
    "Record",
    "RecordedHoldings",
    "Records",
    "SpecHolds",
    "State",
    "StatusWriter",
    "Sweeper",
    "decode",
    "holds",
]
