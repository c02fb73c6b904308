"""The email channel: builds MIME messages and submits them to an SMTP server over persistent, pipelined connections."""
