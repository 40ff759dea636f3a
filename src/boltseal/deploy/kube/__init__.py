"""Releases on Kubernetes clusters: manifests with every image by digest, applied, waited for, and restored on failure."""
