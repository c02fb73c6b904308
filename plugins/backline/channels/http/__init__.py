"""What channels over HTTP share."""
