"""Checks of a whole batch: `compiling` makes SQL of what is declared, `measuring` gives the verdicts over parts."""
