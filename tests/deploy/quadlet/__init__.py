"""Releases of Quadlet units, with the generator of the installed Podman."""
