"""A webhook endpoint for development: records requests, shows them, and injects faults."""
