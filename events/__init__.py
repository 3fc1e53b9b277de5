"""What happened: typed events, the log, the archive."""
