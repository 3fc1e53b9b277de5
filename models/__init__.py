"""Mathematics only: one file per model."""
