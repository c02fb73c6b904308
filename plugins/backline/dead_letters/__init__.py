"""Dead letters: what failed for good, messages and jobs alike, kept until it is replayed, discarded or resolved."""
