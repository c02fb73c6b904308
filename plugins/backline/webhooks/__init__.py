"""Webhook endpoints: managed over HTTP and by command."""
