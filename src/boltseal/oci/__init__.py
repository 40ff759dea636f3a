"""The terms of the OCI specifications as types: digests, references, manifests, media types. Pure."""
