"""An embedded Kubernetes API server for the demo and the tests."""

from driver.sim.apiserver.access import ADMIN, ANONYMOUS, User, kubeconfig
from driver.sim.apiserver.context import GATES
from driver.sim.apiserver.errors import StatusError
from driver.sim.apiserver.faults import Fault, Request
from driver.sim.apiserver.release import V1_36, V1_37, Release
from driver.sim.apiserver.server import ApiServer

__all__ = [
    "ADMIN",
    "ANONYMOUS",
    "GATES",
    "V1_36",
    "V1_37",
    "ApiServer",
    "Fault",
    "Release",
    "Request",
    "StatusError",
    "User",
    "kubeconfig",
]
