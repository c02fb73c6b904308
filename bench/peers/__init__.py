"""What Backline is measured against. Runs in a venv of its own and imports nothing of Backline's."""
