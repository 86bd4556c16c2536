"""ResourceSlices: built from the device model, kept in step with the API server."""
