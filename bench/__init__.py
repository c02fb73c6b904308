"""Benches: Backline beside its peers, in one run on one machine. `./backline bench` runs them."""
