"""boltseal: a registry, mirror and gate in which a published tag never changes, and the tools around it."""

__version__ = "0.2.0"
