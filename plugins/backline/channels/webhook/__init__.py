"""The webhook channel: events delivered to HTTP endpoints, signed by Standard Webhooks (standardwebhooks.com)."""
