"""The files of NVIDIA's driver on the host."""
