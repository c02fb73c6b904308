"""The peers that Backline is compared with. They run in their own venv and import nothing of Backline."""
