"""Side-by-side measurements against named peers: one command, one table."""
