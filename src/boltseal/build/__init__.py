"""What a build is made of, and what it may be called: unique tags, and the labels that say where an image came from."""
