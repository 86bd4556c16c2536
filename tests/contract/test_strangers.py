"""What any pod can do to the two TCP ports of a node's driver: nothing that a claim would notice."""

from __future__ import annotations

import contextlib
import resource
import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Claims, Driver, Kubelet

FEW = 512
"""Open files that the driver may have."""
MANY = 1400


@contextlib.contextmanager
def held(port: int, count: int) -> Iterator[None]:
    """Connections on which nothing is said."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            with contextlib.suppress(ConnectionError):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        yield


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Enough of them for ourselves."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], min(before[1], 4 * MANY)), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("port", ["health_port", "http_port"])
async def test_claims_are_prepared_while_more_idle_connections_are_held_than_there_are_descriptors(
    driver: Driver, kubelet: Kubelet, claims: Claims, port: str
) -> None:
    resource.prlimit(driver.pid, resource.RLIMIT_NOFILE, (FEW, FEW))
    prepared = [await claims.allocated(f"claim-{number}", f"gpu-{number}") for number in range(8)]

    with held(getattr(driver, port), MANY):
        answers = [await kubelet.prepare(claim) for claim in prepared]

    assert [answer.error for answered in answers for answer in answered.values()] == [""] * 8
    assert "Too many open files" not in driver.log
    assert len(driver.log) < 100_000
