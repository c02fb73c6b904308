"""Chaos tests: each scenario injects a fault under load and counts at the receiver which messages arrived."""
