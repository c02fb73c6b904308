"""Payments of orders: charges, dunning, refunds and the providers' events."""
