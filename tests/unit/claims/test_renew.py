"""Specs of held claims follow the hardware's numbers, and go where nobody can tell them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from driver.inventory.catalogue import Device
from tests.unit.claims.conftest import gpu, result

if TYPE_CHECKING:
    from tests.unit.claims.conftest import Node


def files(node: Node) -> list[str]:
    """Device files of all specs, in the order of their names."""
    specs = [json.loads((node.cdi_root / name).read_text()) for name in node.spec_files()]
    return [n["path"] for spec in specs for d in spec["devices"] for n in d["containerEdits"]["deviceNodes"]]


def renumber(node: Node, **minors: int) -> None:
    """By the digit of each GPU's UUID: what its minor is now. Names stay."""
    node.inventory = {
        f"gpu-{number}": Device(name=f"gpu-{number}", gpu=replace(gpu(int(number)), minor=minor))
        for number, minor in ((name.removeprefix("gpu"), minor) for name, minor in minors.items())
    }


async def test_a_spec_is_written_again_with_the_numbers_of_now(node: Node, allocated: Any) -> None:
    await node.prepare(allocated(result("gpu-0")))
    records = list(node.records)

    renumber(node, gpu0=1, gpu1=0)

    assert len(await node.engine.restore()) == 1
    assert not node.engine.unsettled
    assert files(node) == ["/dev/nvidia1"]
    assert list(node.records) == records


async def test_a_spec_that_is_right_is_not_touched(node: Node, allocated: Any) -> None:
    await node.prepare(allocated())
    await node.engine.restore()
    (spec,) = (node.cdi_root / name for name in node.spec_files())
    before = spec.stat()

    renumber(node, gpu0=0, gpu1=7)
    await node.engine.restore()

    assert (spec.stat().st_ino, spec.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def test_the_spec_of_a_gpu_that_is_gone_is_withdrawn_until_it_is_back(node: Node, allocated: Any) -> None:
    first = allocated(result("gpu-0"), name="first")
    await node.prepare(first)
    await node.prepare(allocated(result("gpu-1"), name="second"))

    renumber(node, gpu1=0, gpu2=1)  # gpu-0 is gone, and the rest have moved down
    await node.engine.restore()
    assert node.engine.unsettled
    assert files(node) == ["/dev/nvidia0"]
    assert len(node.records) == 2

    renumber(node, gpu0=0, gpu1=1)
    assert len(await node.engine.restore()) == 2
    assert not node.engine.unsettled
    assert sorted(files(node)) == ["/dev/nvidia0", "/dev/nvidia1"]


async def test_a_spec_is_by_uuid_whatever_the_name_stands_for_now(node: Node, allocated: Any) -> None:
    await node.prepare(allocated(result("gpu-0")))

    swapped = {"gpu-0": replace(gpu(1), name="gpu-0"), "gpu-1": replace(gpu(0), name="gpu-1", minor=5)}
    node.inventory = {name: Device(name=name, gpu=other) for name, other in swapped.items()}

    assert len(await node.engine.restore()) == 1
    assert not node.engine.unsettled
    assert files(node) == ["/dev/nvidia5"]
