"""The embedded stack: PostgreSQL, Airflow and the sandbox on one machine, under supervisord. Not part of the image."""
