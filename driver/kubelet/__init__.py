"""The gRPC services that a kubelet dials; they translate and decide nothing."""

from driver.kubelet.dra import DraService
from driver.kubelet.health import HealthServiceV1, HealthServiceV1Alpha1
from driver.kubelet.probes import Liveness, ProbeService, serves
from driver.kubelet.registration import RegistrationService
from driver.kubelet.server import (
    Interceptor,
    allow_descriptors,
    bind_tcp,
    bind_unix,
    new_public_server,
    new_server,
    remove_dead_socket,
)

__all__ = [
    "DraService",
    "HealthServiceV1",
    "HealthServiceV1Alpha1",
    "Interceptor",
    "Liveness",
    "ProbeService",
    "RegistrationService",
    "allow_descriptors",
    "bind_tcp",
    "bind_unix",
    "new_public_server",
    "new_server",
    "remove_dead_socket",
    "serves",
]
