"""GPU hours of namespaces: counted, written onto their ResourceQuotas, and kept there."""

from driver.cluster.accountant.count import Policy
from driver.cluster.accountant.run import Settings, run_accountant

__all__ = [
    "Policy",
    "Settings",
    "run_accountant",
]
