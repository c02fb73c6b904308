"""Backline's HTTP API, mounted under /backline in Airflow's api-server. Only that process imports it: FastAPI is slow to import."""
