"""Backline: background work for product teams, on Apache Airflow and PostgreSQL."""

__version__ = "0.1.0"
