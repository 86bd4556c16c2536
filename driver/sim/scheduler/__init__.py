"""The embedded cluster's scheduler: allocates devices to claims and binds pods to nodes."""
