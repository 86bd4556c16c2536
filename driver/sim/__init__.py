"""An embedded one-node cluster for the demo and the tests; it knows the driver only by its sockets."""
