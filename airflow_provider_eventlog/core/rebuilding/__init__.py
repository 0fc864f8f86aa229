"""Making anew what was lost: a ledger from staging and the targets, a target's table from staging."""
