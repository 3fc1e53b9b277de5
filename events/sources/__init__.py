"""Where events come from: one file per published form."""
