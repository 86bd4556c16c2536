"""ResourceClaims: what is ours in them, and the engine that prepares and unprepares them."""

from driver.claims.allocation import ClaimRef, PodRef, is_of_one_pod, reserved_pods
from driver.claims.chores.sweep import Sweeper
from driver.claims.chores.watch_cdi import CdiWatch
from driver.claims.claim_pods import ClaimPods
from driver.claims.common import Common, Told
from driver.claims.config import decode as decode_parameters
from driver.claims.engine import Engine
from driver.claims.errors import ClaimError
from driver.claims.hardware import Hardware
from driver.claims.ledger.codec import DamagedRecordError, decode, encode
from driver.claims.ledger.damage import SpecHolds
from driver.claims.ledger.ended import Tenure
from driver.claims.ledger.holders import holds
from driver.claims.ledger.holdings import RecordedHoldings
from driver.claims.ledger.quarantine import Quarantine
from driver.claims.ledger.record import PreparedDevice, Record, State
from driver.claims.ledger.records import Records
from driver.claims.metadata import MetadataFiles
from driver.claims.specs import ClaimSpecs
from driver.claims.status import StatusWriter
from driver.claims.terms import Terms

__all__ = [
    "CdiWatch",
    "ClaimError",
    "ClaimPods",
    "ClaimRef",
    "ClaimSpecs",
    "Common",
    "DamagedRecordError",
    "Engine",
    "Hardware",
    "MetadataFiles",
    "PodRef",
    "PreparedDevice",
    "Quarantine",
    "Record",
    "RecordedHoldings",
    "Records",
    "SpecHolds",
    "State",
    "StatusWriter",
    "Sweeper",
    "Tenure",
    "Terms",
    "Told",
    "decode",
    "decode_parameters",
    "encode",
    "holds",
    "is_of_one_pod",
    "reserved_pods",
]
