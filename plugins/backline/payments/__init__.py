"""Payments of orders: charging without charging twice, dunning, refunds, and what providers tell."""
