"""The smallest DAG: one task that returns a value, and one that takes it."""

from airflow.sdk import DAG, task

with DAG("smoke_trivial", schedule=None, params={"n": 1}):

    @task
    def double(params: dict[str, int]) -> int:
        """Twice the run's `n`."""
        return 2 * params["n"]

    @task
    def add_one(n: int) -> int:
        """One more."""
        return n + 1

    add_one(double())
