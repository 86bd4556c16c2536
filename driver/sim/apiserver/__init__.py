"""An embedded Kubernetes API server for the demo and the tests."""

from driver.sim.apiserver.access import ADMIN, ANONYMOUS, User, kubeconfig
from driver.sim.apiserver.context import GATES
from driver.sim.apiserver.errors import StatusError
from driver.sim.apiserver.faults import Fault, Request
from driver.sim.apiserver.server import ApiServer

__all__ = ["ADMIN", "ANONYMOUS", "GATES", "ApiServer", "Fault", "Request", "StatusError", "User", "kubeconfig"]
