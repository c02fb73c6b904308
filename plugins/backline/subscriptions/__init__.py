"""Subscriptions: orders that come again, each on its day of the month."""
