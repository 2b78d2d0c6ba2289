"""The evidence: `fst bench claims` reruns the paper's experiments (arXiv 2605.12484, claims C1 to C8; C9 is ours) and
says what holds.

plan.py      which runs a claim needs; claims share runs
work.py      one piece of work, in a process of its own, resumable
run.py       all of them, as many at once as there are cores
curves.py    pure: first reach, matched accuracy, the sigmoid's ceiling, intervals over seeds
evidence.py  what the finished work says: runs, curves, budgets
judge*.py    pure: a row for each claim and domain
page.py      figures, table and page
"""
