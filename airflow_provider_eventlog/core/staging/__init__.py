"""Staging: immutable files below one root; the only code that writes there."""
