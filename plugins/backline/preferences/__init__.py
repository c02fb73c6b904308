"""Recipient preferences: suppressions, opt-outs, quiet hours, daily limits and unsubscribe links."""
