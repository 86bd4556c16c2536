"""What people and machines can see of the driver: metrics, logs, health pages."""
