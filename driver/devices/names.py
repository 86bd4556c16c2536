"""Device names that outlive a reboot, after which minors may come in another order: pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.devices.model import Inventory


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Which GPU has which name on this node."""

    boot_id: str = ""
    by_uuid: Mapping[str, str] = field(default_factory=dict)


def settle(known: Names, inventory: Inventory, *, boot_id: str) -> tuple[Inventory, Names]:
    """The inventory with the names that its GPUs have had before, and what is to be remembered from now on.

    A GPU that is new takes ``gpu-<minor>``, as the backend names it. If that name belongs to one that is not there, it
    was replaced when the node was down for it, and its name is free; within one boot it may come back, so its name is
    kept, and the new GPU takes the lowest number that nobody has. Where no GPU is known, nothing is left of the machine
    that the names were for.
    """
    present = {gpu.uuid for gpu in inventory.gpus}
    if present and not present & known.by_uuid.keys():
        known = Names(boot_id=boot_id)
    kept = {uuid: name for uuid, name in known.by_uuid.items() if uuid in present or known.boot_id == boot_id}
    absent = {uuid: name for uuid, name in known.by_uuid.items() if uuid not in kept}
    taken = set(kept.values())
    for gpu in inventory.gpus:
        if gpu.uuid in kept:
            continue
        name, number = gpu.name, 0
        while name in taken:
            name, number = f"gpu-{number}", number + 1
        kept[gpu.uuid] = name
        taken.add(name)
    # A GPU that was away at this boot gets its name back later, unless another took it.
    kept.update({uuid: name for uuid, name in absent.items() if name not in taken})
    gpus = tuple(gpu if gpu.name == kept[gpu.uuid] else replace(gpu, name=kept[gpu.uuid]) for gpu in inventory.gpus)
    return replace(inventory, gpus=gpus), Names(boot_id=boot_id, by_uuid=kept)
