"""What every job has, whatever it does: limits, a rate, progress and a result."""
