"""What recipients want: suppression, topics and opt-outs, quiet hours, limits, and the link that leaves a topic."""
