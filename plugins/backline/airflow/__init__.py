"""Thin adapters between Airflow and the library: the only part of it that imports Airflow."""
