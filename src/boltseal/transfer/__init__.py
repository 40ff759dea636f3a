"""Images on their way from one place to another: copied, compared, looked at. Nothing unverified is passed on.

places    what a person types: `oci:DIR:TAG`, `docker-archive:FILE`, `docker-daemon:REF`, or a reference
holders   what a place that gives images does, and one that takes them (protocols)
remote    a repository of a registry
layout    a folder in the OCI image layout
archive   what `docker save` writes and `docker load` reads
daemon    a Docker daemon, by way of such an archive
copy      the flow from one to the other
compare   are two images the same, and what differs
image     what an image's config says
inspect   everything there is to see of an image
"""
