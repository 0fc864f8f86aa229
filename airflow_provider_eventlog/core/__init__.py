"""The engine: planning, reading, staging, accounting and loading, without Airflow."""
