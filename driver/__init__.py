"""gpu-dra-driver: a Dynamic Resource Allocation kubelet plugin for GPUs."""

import os

# Read when gRPC is imported: its core has lines of its own for log and demo when a server ends with calls open.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
