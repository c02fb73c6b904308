"""Reconciliation: comparison of payments with the provider's statement."""
