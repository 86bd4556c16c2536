"""What is wrong with a node is told when it begins and when it ends, and shown meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from driver.hardware.model import Defect
from driver.inventory import Defects
from driver.observe.metrics import Metrics
from tests.unit.inventory.conftest import Said

NO_CUDA = Defect(kind="no-libcuda", why="there is no libcuda.so")
NO_DIRECTORY = Defect(kind="cdi-root", why="/var/run/cdi cannot be written", blocks=True)


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(driver_name="gpu.nvidia.com")


@pytest.fixture
def defects(said: Any, metrics: Metrics) -> Defects:
    return Defects(events=said, metrics=metrics)


def value(metrics: Metrics, kind: str) -> float | None:
    return metrics.registry.get_sample_value("gpu_dra_node_defects", {"defect": kind})


def test_what_begins_and_what_ends_is_told_once(defects: Defects, said: Said, metrics: Metrics) -> None:
    assert defects.found("driver", NO_CUDA)
    assert not defects.found("driver", NO_CUDA)
    assert value(metrics, "no-libcuda") == 1

    assert defects.found("driver")

    assert not defects.found("driver")
    assert value(metrics, "no-libcuda") == 0
    assert [(kind, reason) for kind, reason, _ in said.events] == [
        ("Warning", "NodeDefect"),
        ("Normal", "NodeDefectMended"),
    ]


def test_only_what_stands_in_the_way_of_every_claim_makes_the_node_unready(defects: Defects) -> None:
    defects.found("driver", NO_CUDA)
    assert (defects.blocking, defects.not_ready()) == ("", [])

    defects.found("cdi", NO_DIRECTORY)

    assert defects.blocking == "cdi-root"
    assert defects.not_ready() == ["node: cdi-root: /var/run/cdi cannot be written"]
    assert [defect.kind for defect in defects] == ["no-libcuda", "cdi-root"]


def test_what_one_sees_does_not_end_what_another_sees(defects: Defects) -> None:
    defects.found("cdi", NO_DIRECTORY)

    defects.found("driver")

    assert defects.blocking == "cdi-root"
