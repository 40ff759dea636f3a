"""Lists running containers of engines and clusters, names their images by their registries, and compares them with the lock.

Nothing here changes a host. Answers of an engine or cluster are trusted as they are. Image names come from registries, and
only from those that the user allows.
"""
