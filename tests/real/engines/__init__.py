"""Container engines that really run: builds, deploys, kept images, and what `ps` and the engine's client see of them."""
