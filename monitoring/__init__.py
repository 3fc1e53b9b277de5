"""Evidence becomes verdicts."""
