"""Device conditions, and what they mean to the scheduler (taints) and to the kubelet (health)."""

from driver.health.conditions import Conditions, concerning
from driver.health.feed import HealthFeed
from driver.health.gpu_events import tell_difference
from driver.health.monitor import Monitor
from driver.health.report import DeviceHealth, describe, report_health
from driver.health.store import CONDITIONS_FILE, ConditionStore
from driver.health.taints import DEFAULT_EFFECTS, Effect, Effects, device_taints
from driver.health.xids import Severity, XidRules, parse_xids

__all__ = [
    "CONDITIONS_FILE",
    "DEFAULT_EFFECTS",
    "ConditionStore",
    "Conditions",
    "DeviceHealth",
    "Effect",
    "Effects",
    "HealthFeed",
    "Monitor",
    "Severity",
    "XidRules",
    "concerning",
    "describe",
    "device_taints",
    "parse_xids",
    "report_health",
    "tell_difference",
]
