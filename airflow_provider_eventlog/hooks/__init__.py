"""Airflow's connections and configuration, as this package uses them."""
