"""Deploys Compose projects as recorded releases, waits for health, and rolls back."""
