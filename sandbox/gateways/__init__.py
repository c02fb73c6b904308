"""Stand-ins for SMS and push providers: they keep what comes, show it, and misbehave when told to."""
