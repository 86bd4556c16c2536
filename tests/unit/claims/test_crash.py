"""What is on disk when a step fails half-way, in the cases that the fault harness has found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from driver.claims.errors import Reason

from .conftest import ClaimApi, Node, result

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_new_allocation_is_never_answered_with_the_spec_of_the_old_one(
    node: Node, api: ClaimApi, allocated: Any, tmp_path: Path
) -> None:
    claim = allocated(result("gpu-0"))
    await node.prepare(claim)
    api.claims["claim"]["status"]["allocation"]["devices"]["results"] = [result("gpu-3")]
    staging = tmp_path / "cdi" / ".gpu.nvidia.com"
    staging.rmdir()
    staging.touch()  # nothing can be staged in a file

    error = await node.prepare(claim)
    staging.unlink()
    devices = await node.prepare(claim)

    assert error.reason is Reason.CDI
    [name] = [d["name"] for d in json.loads((node.cdi_root / node.spec_files()[0]).read_text())["devices"]]
    assert devices[0].cdi_ids == (f"k8s.gpu.nvidia.com/claim={name}",)
