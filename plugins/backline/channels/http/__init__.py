"""What channels over HTTP share: the gateway of a connection, kept sessions, and what answers mean."""
