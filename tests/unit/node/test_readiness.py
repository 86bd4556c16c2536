"""What is missing, and what the page ``/status`` says."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from driver.inventory.known_devices import Devices
from driver.node.readiness import NodeStatus
from driver.node.settings import Settings


class Silent:
    """A part that lacks what the test says."""

    def __init__(self, *missing: str) -> None:
        self.missing = list(missing)

    def not_ready(self) -> list[str]:
        return self.missing

    def __iter__(self) -> Any:
        return iter(())


class NoRecords:
    """Of a node without claims."""

    def __len__(self) -> int:
        return 0

    class quarantine:  # noqa: N801
        @staticmethod
        def by_uid() -> dict[str, str]:
            return {}


def status(
    *, api: Any = None, devices: Any = None, registration: Any = None, problem: str = "", published: bool = True
) -> NodeStatus:
    anything: Any = {
        "settings": Settings(node_name="node-1", pod_uid="uid-1"),
        "api": api or Silent(),
        "devices": devices or Silent(),
        "offer": SimpleNamespace(problems={}),
        "defects": Silent(),
        "registration": registration or Silent(),
        "coexistence": SimpleNamespace(problem=problem, signs=()),
        "publisher": SimpleNamespace(published=published, quiet=False, dropped=frozenset()),
        "records": NoRecords(),
    }
    return NodeStatus(**anything)


def test_nothing_is_missing_where_no_part_lacks_anything() -> None:
    assert status().not_ready() == []


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (status(devices=Devices()), "devices: the driver has just started and does not know its GPUs yet"),
        (status(api=Silent("API server: it refuses the credentials")), "API server: it refuses the credentials"),
        (status(registration=Silent("kubelet: not registered")), "kubelet: not registered"),
        (status(published=False), "slices: not published"),
        (status(problem="a device plugin is there", published=False), "slices: held back: a device plugin is there"),
    ],
)
def test_each_part_says_in_a_line_what_it_lacks(found: NodeStatus, line: str) -> None:
    assert found.not_ready() == [line]


def test_the_page_can_be_written_before_anything_is_known() -> None:
    page = json.loads(json.dumps(status(devices=Devices()).page()))

    assert (page["node"], page["podUID"], page["devices"]) == ("node-1", "uid-1", 0)
    assert page["notReady"] == status(devices=Devices()).not_ready()
