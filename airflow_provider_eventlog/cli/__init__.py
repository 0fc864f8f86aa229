"""The command line: `eventlog ...`, and `airflow eventlog ...` which passes through to it."""
