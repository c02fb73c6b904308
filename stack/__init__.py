"""The embedded stack: PostgreSQL, Airflow and the mail catcher on one machine, kept alive by supervisord."""
