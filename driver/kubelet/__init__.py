"""The gRPC services that a kubelet dials; they translate and decide nothing."""
