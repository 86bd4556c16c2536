"""gpu-dra-driver: a Dynamic Resource Allocation kubelet plugin for GPUs."""
