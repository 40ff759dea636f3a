"""What a person sees who uses docker, podman, skopeo and the others with a boltseal that really runs."""
