"""Images on this machine: verify them on disk, pull and keep them, and list running containers."""
