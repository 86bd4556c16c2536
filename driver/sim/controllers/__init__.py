"""The embedded cluster's controllers: generated claims, eviction from tainted devices, jobs."""
