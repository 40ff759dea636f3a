"""Blobs: the protocol of a blob store, and local files."""
