"""Dead letters: what failed for good, messages and jobs alike, until somebody has dealt with it."""
