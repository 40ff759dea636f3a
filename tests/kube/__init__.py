"""Releases on Kubernetes, with real kubectl against a scripted API server."""
