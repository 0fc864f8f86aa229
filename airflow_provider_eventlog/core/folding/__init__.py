"""Folding: generations enter the windows of an output, one after another, numbered in its fold log.

`partials` makes what a slice brings, `head` is a log as its newest fold left it, `frontier` tells what enters next,
`step` makes one fold of it, `advancing` goes on as far as that is possible, `applying` brings a table up to the log.
"""
