"""Settings and the state folder; the only place that reads the environment."""
