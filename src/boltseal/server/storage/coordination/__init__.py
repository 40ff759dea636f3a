"""Coordination of processes: the generation of caches, and leases."""
