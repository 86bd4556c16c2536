"""Reading claims: an answer that is the same byte by byte is not taken apart again, any other is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from driver.claims.allocation import ClaimRef
from driver.claims.read import MAX_KNOWN, ClaimReader

from .conftest import DRIVER, ClaimApi, claim, result

if TYPE_CHECKING:
    from driver.claims.allocation import Allocation

REF = ClaimRef("default", "claim", "uid-1")


async def read_twice(first: dict[str, Any], second: dict[str, Any]) -> tuple[Allocation, Allocation]:
    api: Any = ClaimApi()
    reader = ClaimReader(api, driver=DRIVER)
    read = []
    for obj in (first, second):
        api.claims["claim"] = obj
        read.append(await reader.read(REF, time.monotonic() + 45))
    assert api.gets == 2
    return read[0], read[1]


async def test_the_same_answer_is_taken_apart_once() -> None:
    before, after = await read_twice(claim(uid="uid-1"), claim(uid="uid-1"))

    assert after is before


async def test_what_has_changed_on_the_api_server_is_seen() -> None:
    before, after = await read_twice(claim(result("gpu-0"), uid="uid-1"), claim(result("gpu-1"), uid="uid-1"))

    assert [one.results[0].device for one in (before, after)] == ["gpu-0", "gpu-1"]
    assert before.fingerprint != after.fingerprint


async def test_large_answers_are_not_kept() -> None:
    large = claim(uid="uid-1")
    large["metadata"]["annotations"] = {"example.com/large": "x" * MAX_KNOWN}

    before, after = await read_twice(large, large)

    assert after == before
    assert after is not before
