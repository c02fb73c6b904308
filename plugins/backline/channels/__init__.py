"""The ways out: one module a channel, all behind the protocol in `base`."""
