"""The tests, laid out as `src/boltseal` is, and the modules that they share."""
