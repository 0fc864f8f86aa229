"""Faults at every effect: kills, pauses, races, lost power, full disks, flipped bits."""
