"""Subscriptions: their cycles, renewals and reminders."""
