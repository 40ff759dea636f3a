"""Builds: base images and other inputs, unique tags, origin labels, and the programs that build."""
