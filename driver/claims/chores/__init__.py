"""What is done for claims now and then, beside the kubelet's calls."""
