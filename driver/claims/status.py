"""``status.devices`` of claims: what was prepared, for people who look at the claim. Off the hot path."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import tenacity

from driver.base.backoff import Backoff
from driver.claims.errors import ClaimError
from driver.claims.ledger.record import State
from driver.kube import IF_TRANSIENT, MERGE_PATCH, ApiError, check_object, claim_path, odd, uid_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.claims.allocation import ClaimRef
    from driver.claims.ledger.record import PreparedDevice, Record
    from driver.claims.ledger.records import Records
    from driver.kube import Api

logger = logging.getLogger(__name__)

FIELD_MANAGER = "gpu-dra-driver"
ATTEMPTS = 12
CONFLICTS = 5


def device_status(record: Record, device: PreparedDevice, published: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of ``status.devices``; ``published`` is the device as it is in the ResourceSlice."""
    attributes = published.get("attributes") or {}
    shown = {
        "uuid": device.partition.uuid if device.partition else device.gpu_uuid,
        "productName": _value(attributes.get("productName")),
        "pciBusID": _value(attributes.get("resource.kubernetes.io/pciBusID")),
        "driverVersion": _value(attributes.get("driverVersion")),
        "profile": device.partition.profile if device.partition else None,
        "share": dict(device.consumed) or None,
    }
    status: dict[str, Any] = {
        "driver": record.driver,
        "pool": device.pool,
        "device": device.device,
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Prepared",
                "message": "The device is prepared for the pods of this claim.",
                "lastTransitionTime": record.prepared_at[:19] + "Z",
            }
        ],
        "data": {key: value for key, value in shown.items() if value is not None},
    }
    if device.share_id is not None:
        status["shareID"] = device.share_id
    return status


class StatusWriter:
    """Writes the status of claims one after another; the newest wish for a claim counts, an unprepare cancels it."""

    def __init__(self, api: Api, *, published: Callable[[str], Mapping[str, Any]]) -> None:
        self._api = api
        self._published = published
        self._wanted: OrderedDict[str, Record] = OrderedDict()
        self._wake = asyncio.Event()

    def want(self, record: Record) -> None:
        """Write the status of a claim soon."""
        self._wanted[record.claim.uid] = record
        self._wake.set()

    def forget(self, claim: ClaimRef) -> None:
        """The claim was unprepared: nothing needs to be written any more."""
        self._wanted.pop(claim.uid, None)

    async def catch_up(self, records: Records) -> None:
        """Write what a process that died before us did not get to: each claim is looked at once."""
        for record in tuple(records):
            if record.state is State.PREPARED and record.claim.uid not in self._wanted and await self._lacks(record):
                with contextlib.suppress(ClaimError):
                    if records.read(record.claim.uid) == record:  # not ended meanwhile
                        self.want(record)

    async def _lacks(self, record: Record) -> bool:
        claim = record.claim
        try:
            found = await self._api.get(claim_path(claim.namespace, claim.name))
        except ApiError as error:
            if error.status != 404:
                logger.warning("whether claim %s has its status is not known: %s", claim, error)
            return error.transient  # writing it tries again for longer
        wanted = {(record.driver, device.pool, device.device, device.share_id) for device in record.devices}
        try:
            entries = (found.get("status") or {}).get("devices") or ()
            written = {tuple(entry.get(key) for key in ("driver", "pool", "device", "shareID")) for entry in entries}
            return bool(found["metadata"]["uid"] == claim.uid and not wanted <= written)
        except (KeyError, TypeError, AttributeError) as error:
            logger.warning("whether claim %s has its status is not known, the answer is no claim: %r", claim, error)
            return True

    async def run(self) -> None:
        """Write for ever. Ends only by cancellation."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wanted:
                _, record = self._wanted.popitem(last=False)
                try:
                    await self._write(record)
                except Exception:  # an answer that is no claim, say: the next claim's may be one
                    logger.exception("the status of claim %s was not written", record.claim)

    async def _write(self, record: Record) -> None:
        claim = record.claim
        try:
            async for attempt in tenacity.AsyncRetrying(
                retry=IF_TRANSIENT,
                wait=Backoff(multiplier=0.5, longest=30),
                stop=tenacity.stop_after_attempt(ATTEMPTS),
                reraise=True,
            ):
                with attempt:
                    await self._merge(record)
        except ApiError as error:
            if error.status not in {404, 409}:  # the claim is gone or has been replaced: nobody misses the status
                logger.warning("the status of claim %s was not written: %s", claim, error)

    async def _merge(self, record: Record) -> None:
        """Put our entries in the place of our earlier ones; those of other drivers stay as they are."""
        path = claim_path(record.claim.namespace, record.claim.name)
        # Once, what a claim both uses and looks at: the server takes no two entries of the same name.
        ours = {(device.device, device.share_id): device for device in record.devices}.values()
        devices = [device_status(record, device, self._published(device.device)) for device in ours]
        for left in reversed(range(CONFLICTS)):
            found = check_object(await self._api.get(path), path)
            metadata = {"uid": record.claim.uid, "resourceVersion": found["metadata"]["resourceVersion"]}
            try:
                entries = (found.get("status") or {}).get("devices") or ()
                others = [one for one in entries if one["driver"] != record.driver]
            except (KeyError, TypeError, AttributeError):
                raise odd(path, "a claim with status.devices", found) from None
            body = {"metadata": metadata, "status": {"devices": [*others, *devices]}}
            params = {"fieldManager": FIELD_MANAGER}
            try:
                await self._api.request("PATCH", f"{path}/status", params=params, body=body, content_type=MERGE_PATCH)
            except ApiError as error:
                if error.status != 409 or not left or uid_of(found, path) != record.claim.uid:
                    raise
            else:
                return


def _value(attribute: Mapping[str, Any] | None) -> Any:
    return next(iter(attribute.values()), None) if attribute else None
