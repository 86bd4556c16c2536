"""CDI specs: the hand-over to the container runtime."""
