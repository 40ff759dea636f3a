"""Who is told of events, and that they really are. What happened is `events`; the wires are `client`, the queue `storage`."""
