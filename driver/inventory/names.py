"""Device names that outlive a reboot, after which minors may come in another order: pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from driver.hardware import is_uuid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from driver.hardware import Gpu, Inventory


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
    that the names were for. One that does not tell its UUID has whatever name is left, and nobody remembers it.
    """
    present = {gpu.uuid for gpu in inventory.gpus if gpu.has_uuid}
    before = {uuid: name for uuid, name in known.by_uuid.items() if is_uuid(uuid)}
    if present and not present & before.keys():
        before = {}
    kept = {uuid: name for uuid, name in before.items() if uuid in present or known.boot_id == boot_id}
    absent = {uuid: name for uuid, name in before.items() if uuid not in kept}
    _name(kept, (gpu for gpu in inventory.gpus if gpu.has_uuid))
    # A GPU that was away at this boot gets its name back later, unless another took it.
    remembered = kept | {uuid: name for uuid, name in absent.items() if name not in kept.values()}
    _name(kept, (gpu for gpu in inventory.gpus if not gpu.has_uuid))
    gpus = tuple(gpu if gpu.name == kept[gpu.uuid] else replace(gpu, name=kept[gpu.uuid]) for gpu in inventory.gpus)
    return replace(inventory, gpus=gpus), Names(boot_id=boot_id, by_uuid=remembered)


def _name(names: dict[str, str], gpus: Iterable[Gpu]) -> None:
    """Give a name to each GPU that has none, its own if that is free."""
    taken = set(names.values())
    for gpu in gpus:
        if gpu.uuid in names:
            continue
        name, number = gpu.name, 0
        while name in taken:
            name, number = f"gpu-{number}", number + 1
        names[gpu.uuid] = name
        taken.add(name)
