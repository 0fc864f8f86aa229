"""Completeness against the source: what producers sent, held against what was landed.

`plan` checks a declaration, `tally` counts a landed slice once, `chain` says which earlier batches a verdict is about,
`control` and `table` read what producers published, `counts` and `sequences` compare, `judging` freezes the verdict,
`spans` is what folding takes from it, `listing` what people see.
"""
