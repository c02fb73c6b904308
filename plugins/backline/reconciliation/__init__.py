"""Reconciliation: our payments held against the provider's own list."""
