"""boltseal: a container registry with immutable tags, a mirror, and tools that lock, verify and deploy images."""

__version__ = "0.2.0"
