"""WebSockets: one open socket, what it may say, and what it is told."""
