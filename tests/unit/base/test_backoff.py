from __future__ import annotations

import pytest
import tenacity

from driver.base.backoff import Backoff
from driver.kube.client import ApiError
from driver.kube.transient import IF_TRANSIENT


def test_pauses_stay_below_the_longest():
    backoff = Backoff(multiplier=0.1, longest=2)

    assert all(0 <= backoff.after(failures, ApiError(503, "busy")) <= 2 for failures in range(1, 100))


def test_a_server_that_asks_for_more_gets_it():
    backoff = Backoff(multiplier=0.1, longest=2)

    assert 7 <= backoff.after(1, ApiError(429, "slow down", retry_after=7)) <= 10.5


def test_those_whom_a_server_refuses_together_do_not_come_back_together():
    refused = ApiError(429, "slow down", retry_after=1)

    pauses = sorted(Backoff(multiplier=0.1, longest=2).after(1, refused) for _ in range(100))

    assert pauses[-10] - pauses[10] > 0.2


def test_a_server_that_asks_for_hours_gets_a_minute():
    assert Backoff(multiplier=0.1, longest=2).after(1, ApiError(429, "later", retry_after=86_400)) <= 90


async def test_tenacity_waits_as_long_and_tries_again_what_may_well_succeed():
    errors = [ApiError(429, "slow down", retry_after=7), ApiError(403, "no")]
    pauses = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def fail() -> None:
        raise errors.pop(0)

    retrying = tenacity.AsyncRetrying(
        retry=IF_TRANSIENT, wait=Backoff(multiplier=0.1, longest=2), sleep=sleep, reraise=True
    )
    with pytest.raises(ApiError) as raised:
        await retrying(fail)

    assert raised.value.status == 403
    assert [7 <= pause <= 10.5 for pause in pauses] == [True]
