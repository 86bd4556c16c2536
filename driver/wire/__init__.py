"""Messages and stubs of the kubelet's gRPC APIs, compiled from ``protos/`` when the package is built."""
