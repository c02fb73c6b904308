"""Webhook endpoints: kept by people, over HTTP and by command; and the events that jobs fire."""
