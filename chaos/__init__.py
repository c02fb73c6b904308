"""Faults on purpose: each scenario breaks something under load, and counts at the receiver what came of it."""
