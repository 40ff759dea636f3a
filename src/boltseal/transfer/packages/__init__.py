"""The packages of an image: package databases in its layers, SBOMs, and their comparison. Pure; all input is hostile."""
