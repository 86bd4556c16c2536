"""What people do to nodes and clusters: doctor, cleanup, drain, explain, bundle."""

from driver.operate.bundle.make import make_bundle
from driver.operate.cleanup.steps import InUse, delete_slice, in_use, own_slices, sweep, undo
from driver.operate.cleanup.walk import Swept
from driver.operate.doctor.examine import examine
from driver.operate.doctor.findings import exit_status
from driver.operate.doctor.render import as_json, as_text
from driver.operate.drain import Drained, Holder, users, wait_until_drained
from driver.operate.explain import Room, find_room, profiles, taint_text
from driver.operate.node_view import View, view_node

__all__ = [
    "Drained",
    "Holder",
    "InUse",
    "Room",
    "Swept",
    "View",
    "as_json",
    "as_text",
    "delete_slice",
    "examine",
    "exit_status",
    "find_room",
    "in_use",
    "make_bundle",
    "own_slices",
    "profiles",
    "sweep",
    "taint_text",
    "undo",
    "users",
    "view_node",
    "wait_until_drained",
]
