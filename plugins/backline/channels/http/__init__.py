"""Shared by channels over HTTP: the gateway of a connection, persistent sessions, and the errors of responses."""
