"""Figures, each measured in the run that prints it: `python -m bench`, or `make bench`."""
