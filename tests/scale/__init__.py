"""Many nodes on one API server, a driver's process and a simulated kubelet each, under load."""
