"""Channels: how messages are delivered."""
