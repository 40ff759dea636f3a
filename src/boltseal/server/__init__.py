"""The registry server: HTTP, access, registry, mirror and storage, in the layers that ARCHITECTURE.md lists."""
