"""The names of a node's GPUs on disk; one small file, written only when a GPU is new."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING

from driver.base import files
from driver.inventory.names import Names, settle

if TYPE_CHECKING:
    from pathlib import Path

    from driver.hardware import Inventory

logger = logging.getLogger(__name__)

SCHEMA = 1
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
NAMES_FILE = "device-names.json"


class NameStore:
    """``device-names.json`` in the driver's directory. Never fails: without the file names are the backend's."""

    def __init__(self, directory: Path, *, boot_id: str) -> None:
        self._path = directory / NAMES_FILE
        self._boot_id = boot_id
        self._saved: Names | None = None

    def preview(self, inventory: Inventory) -> Inventory:
        """The inventory with the names that its GPUs would have; nothing is written."""
        return settle(self._load(), inventory, boot_id=self._boot_id)[0]

    def apply(self, inventory: Inventory) -> Inventory:
        """The inventory with the names that its GPUs keep; new ones are written down first."""
        known = self._saved if self._saved is not None else self._load()
        renamed, names = settle(known, inventory, boot_id=self._boot_id)
        for before, after in zip(inventory.gpus, renamed.gpus, strict=True):
            if before.name != after.name:
                logger.info("%s (%s) keeps its name %s", before.uuid, before.name, after.name)
        if names != known:
            self._save(names)
        self._saved = names
        return renamed

    def _load(self) -> Names:
        try:
            raw = files.parse(files.read(str(self._path)))
            names = {str(uuid): _name(name) for uuid, name in raw["names"].items()}
            if len(set(names.values())) < len(names):
                raise ValueError("two GPUs have one name")
            return Names(boot_id=str(raw["bootID"]), by_uuid=names)
        except FileNotFoundError:
            return Names(boot_id=self._boot_id)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.error("%s cannot be used, GPUs are named by their minor numbers: %r", self._path, error)
            return Names(boot_id=self._boot_id)

    def _save(self, names: Names) -> None:
        content = {"schema": SCHEMA, "bootID": names.boot_id, "names": dict(names.by_uuid)}
        try:
            files.replace(str(self._path), (json.dumps(content, indent=1) + "\n").encode())
        except OSError as error:
            logger.error("the names of the GPUs are not saved, they may change at the next boot: %s", error)


def _name(value: object) -> str:
    """A name that a device may have. Raises ValueError."""
    if not isinstance(value, str) or not _LABEL.fullmatch(value):
        raise ValueError(f"{value!r:.80} is no name of a device")
    return value
