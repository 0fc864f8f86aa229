"""One operator a stage, the task group that joins them, and the task decorator."""
