"""Pages for people: `/ui/`. Rendered on the server, without scripts."""
