"""Releases of Quadlet units: drop-in files that set only the image, checked by Podman's generator, reversible as a whole."""
