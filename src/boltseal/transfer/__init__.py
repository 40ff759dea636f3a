"""Copy, compare and inspect images in registries, layouts, archives and Docker daemons. All content is verified.

locations         parses `oci:FOLDER:TAG`, `docker-archive:FILE`, `docker-daemon:IMAGE`, or a reference
connect           opens a location as a source or a target
protocols         the interfaces of a source and of a target of images
remote            a repository of a registry
layout            a folder in the OCI image layout
archive           an archive of `docker save` and `docker load`
daemon            a Docker daemon, through such an archive
copy              copies images from a source to a target
compare           compares two images and reports the differences
image_config      parses the config of an image
inspect           reads platforms, labels, layers, base and signatures of an image
manifest_bundle   an archive of an image's manifests and configs, without layers
"""
