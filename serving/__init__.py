"""Slates over HTTP: the edge, the ladder, the journal."""
