"""A mail catcher for development: SMTP on loopback into a Maildir, pages to read it, and fault injection."""
