"""Delivery events from providers: each provider's webhook requests, verified, parsed and recorded."""
