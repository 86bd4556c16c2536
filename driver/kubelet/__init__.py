"""The gRPC services that a kubelet dials; they translate and decide nothing."""

from driver.kubelet.registration import RegistrationService
from driver.kubelet.server import allow_descriptors
from driver.kubelet.serving import Addresses, Serving

__all__ = [
    "Addresses",
    "RegistrationService",
    "Serving",
    "allow_descriptors",
]
