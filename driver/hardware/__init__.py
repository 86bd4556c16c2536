"""What GPUs there are, and the backends that read and change them."""

from driver.hardware.backend import (
    Backend,
    BackendError,
    Meter,
    OutdatedError,
    Sharer,
    Watcher,
    partitioner,
    sharer,
    watcher,
)
from driver.hardware.fake.change import ChangeError
from driver.hardware.fake.fault import inject
from driver.hardware.fake.load import load
from driver.hardware.fake.profile import ProfileError, load_profile
from driver.hardware.fake.state_file import STATE_FILE
from driver.hardware.host.places import Host
from driver.hardware.host.root import DriverRoot
from driver.hardware.measurement import DeviceUse, Measurement, ProcessUse
from driver.hardware.model import (
    NO_ACTION,
    Account,
    Cause,
    Cleared,
    ContainerEdits,
    Defect,
    DeviceNode,
    Event,
    Fault,
    Gpu,
    Inventory,
    InventoryChanged,
    MigMode,
    MigProfile,
    Mount,
    Occurred,
    Partition,
    Quiet,
    is_uuid,
    partition_device_name,
)
from driver.hardware.mps.edits import PIPES
from driver.hardware.mps.surroundings import read_surroundings
from driver.hardware.open import open_backend, read_boot_id
from driver.hardware.process_sharing import ComputeMode, MpsDaemon, MpsLimits, TimeSlice

__all__ = [
    "NO_ACTION",
    "PIPES",
    "STATE_FILE",
    "Account",
    "Backend",
    "BackendError",
    "Cause",
    "ChangeError",
    "Cleared",
    "ComputeMode",
    "ContainerEdits",
    "Defect",
    "DeviceNode",
    "DeviceUse",
    "DriverRoot",
    "Event",
    "Fault",
    "Gpu",
    "Host",
    "Inventory",
    "InventoryChanged",
    "Measurement",
    "Meter",
    "MigMode",
    "MigProfile",
    "Mount",
    "MpsDaemon",
    "MpsLimits",
    "Occurred",
    "OutdatedError",
    "Partition",
    "ProcessUse",
    "ProfileError",
    "Quiet",
    "Sharer",
    "TimeSlice",
    "Watcher",
    "inject",
    "is_uuid",
    "load",
    "load_profile",
    "open_backend",
    "partition_device_name",
    "partitioner",
    "read_boot_id",
    "read_surroundings",
    "sharer",
    "watcher",
]
