"""Is what lies on a host's disk what was pulled? Expected values come from digests, never from the disk they judge.

    receipt, lock or a person's word -> manifest -> config (the image ID) -> diff IDs -> chain IDs -> layer folders -> files

Each step is a hash of the next one's bytes, down to each file's content, owner, mode, times and attributes, which stand
in the layer's tar; the tar is put together again from the files themselves (tar-split), or lies there as a blob.
"""
