"""ResourceClaims: what is ours in them, and the engine that prepares and unprepares them."""
