"""Verifies that images on a host's disk are the ones that were pulled. Expected values come from digests, not from the disk.

    receipt, lock or given digest -> manifest -> config (the image ID) -> diff IDs -> chain IDs -> layer folders -> files

Each step is a hash of the next one's bytes, down to each file's content, owner, mode, times and attributes in the layer's
tar. The tar is reassembled from the files (tar-split), or stored as a blob.
"""
