"""Targets: one module each, behind the `Target` protocol."""
