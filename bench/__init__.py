"""Benches: measure Backline and its peers in one run on one machine. `./backline bench` runs them."""
