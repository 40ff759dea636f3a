"""The tests, laid out as `src/boltseal` is, and beside it what they share."""
