"""The cluster as slices, claims, pods and rules tell it: one model, read by ``top``, the page and the accountant."""

from driver.cluster.fleet import WHOLE, Fleet, Gpu, Holder, Node, Part, Room, Trouble, Usage
from driver.cluster.fleet_state import State
from driver.cluster.fleet_text import as_text, duration, room_text
from driver.cluster.fleet_view import as_dict, shown
from driver.cluster.follow import CLAIMS, PODS, SLICES, Follow, View
from driver.cluster.objects import Amount, Amounts, Claim, Device, Key, Pod, Result, Rule, Shape, Slice, Taint
from driver.cluster.page import Page, serving
from driver.cluster.read_objects import read_claim, read_pod, read_rule, read_slice
from driver.cluster.slice_weights import compute_slices, held_weight, weight, weights
from driver.cluster.taint_rules import RULES, list_rules

__all__ = [
    "CLAIMS",
    "PODS",
    "RULES",
    "SLICES",
    "WHOLE",
    "Amount",
    "Amounts",
    "Claim",
    "Device",
    "Fleet",
    "Follow",
    "Gpu",
    "Holder",
    "Key",
    "Node",
    "Page",
    "Part",
    "Pod",
    "Result",
    "Room",
    "Rule",
    "Shape",
    "Slice",
    "State",
    "Taint",
    "Trouble",
    "Usage",
    "View",
    "as_dict",
    "as_text",
    "compute_slices",
    "duration",
    "held_weight",
    "list_rules",
    "read_claim",
    "read_pod",
    "read_rule",
    "read_slice",
    "room_text",
    "serving",
    "shown",
    "weight",
    "weights",
]
