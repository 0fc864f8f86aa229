"""Windows without an engine around them: plain functions over Arrow tables, one DuckDB session, no I/O.

The functions that take a connection need `core.session.session(threads=1)`: floating sums are made in the order of
rows, and several threads would each keep one of their own.
"""
