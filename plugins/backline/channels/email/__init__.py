"""The email channel: built here as MIME, handed to an SMTP server over kept, pipelined connections.

Import from its modules: this package stays empty, as message types need only `content` and every task imports them.
"""
