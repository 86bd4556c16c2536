"""Files, threads and text: what every folder may use."""
