"""Matching: which supplier's offer serves which purchase order, and why."""
