"""The app's PostgreSQL database: connections, named statements, migrations."""
