"""boltseal beside Debian's docker-registry and nginx, in one run on one machine; `python -m bench` starts it."""
