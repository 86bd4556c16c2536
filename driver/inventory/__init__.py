"""From the hardware to what the node publishes: the flow that reads, offers and publishes, and tries again."""

from driver.inventory.catalogue import Catalogue, Device, Hold, foreign_slots, survey
from driver.inventory.defects import Defects
from driver.inventory.discovery import Discovery, Patience
from driver.inventory.held import Held, HoldingsError
from driver.inventory.host_resources import HostNeeds, HostResources
from driver.inventory.instances import (
    CHANNEL_OPTIONS,
    PROBE_TIMEOUT,
    Instance,
    Kind,
    find_instances,
    is_socket,
    listened_to,
)
from driver.inventory.known_devices import Devices
from driver.inventory.lead import Lead
from driver.inventory.name_store import NAMES_FILE, NameStore
from driver.inventory.neighbours import (
    DEVICE_PLUGIN_DIR,
    NVIDIA_DRIVER,
    Coexistence,
    is_own_slice,
    plugin_resources,
)
from driver.inventory.offer import Offer
from driver.inventory.options import (
    MAX_SHARES,
    DeviceOptions,
    Options,
    Override,
    Partitioning,
    ShareBy,
    Shares,
    parse_memory,
    parse_shares,
)
from driver.inventory.publication import Publication
from driver.inventory.publisher import Publisher
from driver.inventory.slices import build_slices, capacity, slice_name

__all__ = [
    "CHANNEL_OPTIONS",
    "DEVICE_PLUGIN_DIR",
    "MAX_SHARES",
    "NAMES_FILE",
    "NVIDIA_DRIVER",
    "PROBE_TIMEOUT",
    "Catalogue",
    "Coexistence",
    "Defects",
    "Device",
    "DeviceOptions",
    "Devices",
    "Discovery",
    "Held",
    "Hold",
    "HoldingsError",
    "HostNeeds",
    "HostResources",
    "Instance",
    "Kind",
    "Lead",
    "NameStore",
    "Offer",
    "Options",
    "Override",
    "Partitioning",
    "Patience",
    "Publication",
    "Publisher",
    "ShareBy",
    "Shares",
    "build_slices",
    "capacity",
    "find_instances",
    "foreign_slots",
    "is_own_slice",
    "is_socket",
    "listened_to",
    "parse_memory",
    "parse_shares",
    "plugin_resources",
    "slice_name",
    "survey",
]
