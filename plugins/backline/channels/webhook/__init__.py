"""Webhooks: events handed to other people's HTTP endpoints, signed by Standard Webhooks (standardwebhooks.com)."""
