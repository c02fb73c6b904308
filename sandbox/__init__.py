"""Development stand-ins for the outside world. Nothing under `plugins/` imports them."""
