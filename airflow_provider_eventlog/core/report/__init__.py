"""A batch's report: what one generation of it is made of, as JSON values and as one self-contained page."""
