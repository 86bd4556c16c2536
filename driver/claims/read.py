"""Reading claims from the API server, as long as the kubelet waits for the answer."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import tenacity

from driver.base.backoff import Backoff
from driver.claims.errors import ClaimError, Reason
from driver.kube import IF_TRANSIENT, Api, ApiError, claim_path

if TYPE_CHECKING:
    from driver.claims.allocation import ClaimRef

# One GET is quick or it is stuck: a new connection is tried rather than the whole deadline spent on a dead one.
READ_TIMEOUT = 8.0
CONCURRENT_READS = 48


class ClaimReader:
    """GETs of claims: many at once, none for ever. There is no throttle; the server's own flow control counts."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._reads = asyncio.Semaphore(CONCURRENT_READS)

    async def read(self, ref: ClaimRef, deadline: float) -> dict[str, Any]:
        """GET a claim, again and again while the API server is away, until ``deadline`` (monotonic seconds).

        Raises ClaimError that says whether the claim is gone, a permission is missing, or the server.
        """
        path = claim_path(ref.namespace, ref.name)
        try:
            try:
                return await self._get(path, deadline)
            except ApiError as error:  # only now: tenacity's machinery takes longer than many an answer
                if not error.transient:
                    raise
                return await self._get_again(path, deadline, error)
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

    async def _get(self, path: str, deadline: float) -> dict[str, Any]:
        await self._turn(path, deadline)
        try:
            left = max(deadline - time.monotonic(), 0.1)
            return await self._api.get(path, timeout=min(READ_TIMEOUT, left))
        finally:
            self._reads.release()

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

    async def _get_again(self, path: str, deadline: float, first: ApiError) -> dict[str, Any]:
        """GET until it succeeds, or fails for good, or the time is up; the first try has failed already."""
        failed = [first]

        async def get() -> dict[str, Any]:
            if failed:
                raise failed.pop()
            return await self._get(path, deadline)

        return await tenacity.AsyncRetrying(
            retry=IF_TRANSIENT,
            wait=Backoff(multiplier=0.05, longest=2),
            stop=lambda state: time.monotonic() + state.upcoming_sleep >= deadline,
            reraise=True,
        )(get)
