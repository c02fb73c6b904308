"""A mail catcher for development: SMTP on loopback into a Maildir, a page to read it, and fault switches."""
