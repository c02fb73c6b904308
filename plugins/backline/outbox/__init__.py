"""The outbox engine: messages are rows, dispatchers claim them under a lease, and none is ever lost."""
