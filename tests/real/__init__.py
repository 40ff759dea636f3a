"""Tests with docker, podman, skopeo and other real clients against a running boltseal."""
