"""The registry, the ledger and the release."""
