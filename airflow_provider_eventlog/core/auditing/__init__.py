"""Auditing: ledger, staging and targets held against each other, and what of a difference can be mended."""
