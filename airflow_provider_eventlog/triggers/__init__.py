"""Triggers: what waits in the triggerer, without the ledger and without consuming."""
