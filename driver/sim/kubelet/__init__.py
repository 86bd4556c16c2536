"""The embedded cluster's kubelet: plugins, claims, pods as processes. Behaves as the one of Kubernetes 1.36.2 does."""

from driver.sim.kubelet.kubelet import Kubelet
from driver.sim.kubelet.options import Options

__all__ = ["Kubelet", "Options"]
