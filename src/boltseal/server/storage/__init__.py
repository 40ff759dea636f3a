"""Storage: metadata in a database, blobs in files, keys, users, backup, fsck and garbage collection."""
