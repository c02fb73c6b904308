"""The app's PostgreSQL: named statements, migrations, connections that come back."""
