"""Pages in Airflow's own server."""
