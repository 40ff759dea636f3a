"""What runs on hosts: looked at, named by its registries, held against the lock.

Nothing here changes a host. What an engine or a cluster says is taken as its word; what an image is called is asked of its
registry, and only of those that the user allows.
"""
