"""What GPUs there are: the device model, MIG facts, and the backends that read them."""
