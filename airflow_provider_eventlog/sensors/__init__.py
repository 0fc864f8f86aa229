"""Sensors over topics and streams."""
