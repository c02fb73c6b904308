"""Backline's HTTP side inside Airflow's api-server, under /backline. Only that process imports it: FastAPI is not light."""
