"""A node as its driver would see it now, read without leaving a trace."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driver.base import files, layout
from driver.claims import DamagedRecordError, decode, holds
from driver.hardware import STATE_FILE, open_backend, read_boot_id
from driver.health import ConditionStore
from driver.inventory import NameStore, build_slices, foreign_slots, slice_name, survey
from driver.node import read_node_config
from driver.operate.node_template import as_template

if TYPE_CHECKING:
    from collections.abc import Callable

    from driver.claims import Record
    from driver.hardware import Inventory
    from driver.health import Conditions, Effects
    from driver.inventory import Catalogue
    from driver.node import NodeConfig, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A node as its driver would see it now."""

    settings: Settings
    config: NodeConfig
    effects: Effects
    list_attributes: bool
    inventory: Inventory
    catalogue: Catalogue
    conditions: Conditions
    records: tuple[Record, ...]
    template: bool = False
    """Whether it is a node like this one, but new, with other hardware of the same kind."""

    def documents(self) -> list[dict[str, Any]]:
        """The slices as the publisher creates them in a new pool, but for the Node's UID: the API server knows it."""
        settings = self.settings
        driver, node = settings.driver_name, settings.node_name
        specs = build_slices(
            self.inventory,
            self.conditions,
            driver_name=driver,
            devices=self.catalogue.devices,
            effects=self.effects,
            list_attributes=self.list_attributes,
            host=self.config.host_needs(),
            pending=self.catalogue.pending,
        )
        pool = {"name": node, "generation": 1, "resourceSliceCount": len(specs)}
        documents = [
            {
                "apiVersion": "resource.k8s.io/v1",
                "kind": "ResourceSlice",
                "metadata": {"name": slice_name(index, driver_name=driver, node_name=node)},
                "spec": {"driver": driver, "nodeName": node, "pool": dict(pool), **spec},
            }
            for index, spec in enumerate(specs)
        ]
        return as_template(documents) if self.template else documents


def view_node(settings: Settings, *, warn: Callable[[str], None], template: bool = False) -> View:
    """Read the node, changing nothing; blocks as long as its hardware does.

    ``warn`` is told what could not be read beside that, a sentence each. With ``template``, what is on its disk is left
    aside, and partitions that nobody wrote down there are taken to be made for claims: of a new node.

    Raises:
        NodeConfigError: the config file cannot be used.
        BackendError: there is no inventory.
    """
    boot_id = read_boot_id()
    config = read_node_config(settings)
    with tempfile.TemporaryDirectory(prefix="gpu-dra-") as directory:
        # A copy of the fake hardware's state: whoever looks must not leave traces in a running driver's directory.
        state = Path(directory)
        if template:
            settings = settings.model_copy(update={"kubelet_plugins_dir": state / "of-a-new-node"})
        _copy_state(settings.plugin_dir, state, warn)
        backend = open_backend(settings.devices, state, boot_id=boot_id, host=settings.host)
        try:
            inventory = NameStore(settings.plugin_dir, boot_id=boot_id).preview(backend.inventory())
        finally:
            backend.close()
    records = tuple(read_records(settings.plugin_dir, warn=warn))
    ours = {
        (part.gpu_uuid, part.placement.profile, part.placement.start)
        for record in records
        for part in record.devices
        if part.placement is not None and record.boot_id == boot_id
    }
    options = config.device_options(settings)
    return View(
        settings=settings,
        config=config,
        effects=config.taint_effects(),
        list_attributes=config.list_attributes,
        inventory=inventory,
        catalogue=survey(
            inventory,
            options if template else options.with_withheld(foreign_slots(inventory, ours)),
            holds(record for record in records if record.boot_id == boot_id),
        ),
        conditions=ConditionStore(settings.plugin_dir, boot_id=boot_id, rules=config.xid_rules()).peek(),
        records=records,
        template=template,
    )


def _copy_state(plugin_dir: Path, target: Path, warn: Callable[[str], None]) -> None:
    try:
        shutil.copyfile(plugin_dir / STATE_FILE, target / STATE_FILE)
    except FileNotFoundError:
        pass
    except OSError as error:
        warn(f"the state of the fake hardware is not known: {error}")


def read_records(plugin_dir: Path, *, warn: Callable[[str], None]) -> list[Record]:
    """The records of claims that can be read; ``warn`` is told of each that cannot, a sentence."""
    found = []
    for path in sorted((plugin_dir / layout.CLAIMS).glob("*.json")):
        try:
            found.append(decode(files.read(str(path)), uid=path.stem))
        except FileNotFoundError:
            continue  # its claim has ended meanwhile
        except (OSError, DamagedRecordError) as error:
            warn(f"the record {path} cannot be read: {error}")
    return found
