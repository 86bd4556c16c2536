"""Device conditions, and what they mean to the scheduler (taints) and to the kubelet (health)."""
