"""Reading claims from the API server, as long as the kubelet waits for the answer."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING

import tenacity

from driver.base.backoff import Backoff
from driver.claims.allocation import read_allocation
from driver.claims.errors import ClaimError, Reason
from driver.kube import IF_TRANSIENT, Api, ApiError, claim_path, decoded

if TYPE_CHECKING:
    from driver.claims.allocation import Allocation, ClaimRef

# One GET is quick or it is stuck: a new connection is tried rather than the whole deadline spent on a dead one.
READ_TIMEOUT = 8.0
CONCURRENT_READS = 48
KNOWN_ANSWERS = 128
MAX_KNOWN = 8 << 10
"""Bytes of an answer that is known again; a claim from a template has 2 to 3 KiB."""


class ClaimReader:
    """GETs of claims: many at once, none for ever. There is no throttle; the server's own flow control counts."""

    def __init__(self, api: Api, *, driver: str) -> None:
        self._api = api
        self._driver = driver
        self._known = functools.lru_cache(maxsize=KNOWN_ANSWERS)(self._understand)
        self._reads = asyncio.Semaphore(CONCURRENT_READS)

    async def read(self, ref: ClaimRef, deadline: float) -> Allocation:
        """GET a claim, again and again while the API server is away, until ``deadline`` (monotonic seconds).

        Raises ClaimError that says whether the claim is gone, a permission is missing, or the server; also those of
        ``read_allocation``.
        """
        try:
            try:
                return await self._get(ref, deadline)
            except ApiError as error:  # only now: tenacity's machinery takes longer than many an answer
                if not error.transient:
                    raise
                return await self._get_again(ref, deadline, error)
        except ApiError as error:
            if error.status == 404:
                raise ClaimError(Reason.NOT_FOUND, f"claim {ref} does not exist (any more)") from error
            if error.status in {401, 403}:
                raise ClaimError(
                    Reason.API,
                    f"the driver may not read claim {ref}; its ServiceAccount needs the verb 'get' on "
                    f"'resourceclaims' of resource.k8s.io: {error}",
                ) from error
            raise ClaimError(Reason.API, f"cannot read claim {ref}: {error}") from error

    async def _get(self, ref: ClaimRef, deadline: float) -> Allocation:
        path = claim_path(ref.namespace, ref.name)
        await self._turn(path, deadline)
        try:
            left = max(deadline - time.monotonic(), 0.1)
            answer = await self._api.get_bytes(path, timeout=min(READ_TIMEOUT, left))
        finally:
            self._reads.release()
        return (self._known if len(answer) <= MAX_KNOWN else self._understand)(answer, ref)

    def _understand(self, answer: bytes, ref: ClaimRef) -> Allocation:
        """Take an answer apart; a pure function, so one that is the same byte by byte need not be taken apart again."""
        claim = decoded(answer, f"GET {claim_path(ref.namespace, ref.name)}: {self._api.host}")
        return read_allocation(claim, ref=ref, driver=self._driver)

    async def _turn(self, path: str, deadline: float) -> None:
        """Wait for others that are reading, but not longer than our caller waits for us. Raises ApiError."""
        if not self._reads.locked():
            await self._reads.acquire()  # at once
            return
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                await self._reads.acquire()
        except TimeoutError:
            problem = f"{path}: the API server has not answered {CONCURRENT_READS} other requests in time"
            raise ApiError(0, problem) from None

    async def _get_again(self, ref: ClaimRef, deadline: float, first: ApiError) -> Allocation:
        """GET until it succeeds, or fails for good, or the time is up; the first try has failed already."""
        failed = [first]

        async def get() -> Allocation:
            if failed:
                raise failed.pop()
            return await self._get(ref, deadline)

        return await tenacity.AsyncRetrying(
            retry=IF_TRANSIENT,
            wait=Backoff(multiplier=0.05, longest=2),
            stop=lambda state: time.monotonic() + state.upcoming_sleep >= deadline,
            reraise=True,
        )(get)
