"""Readers of image references, one module per file format."""
