"""Control daemons of NVIDIA's Multi-Process Service."""
