"""The format of boltseal.lock, and the comparison of two locks. Pure."""
