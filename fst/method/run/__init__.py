"""A job from its parameters to the end.

runner.py      loads what a job needs, checks it and runs the loop
plan.py        what a run will need, estimated before anything is loaded
start.py       what a run takes over from the bundle it starts from
books.py       its counts, record and progress
spans.py       its events, sent to OpenTelemetry
checkpoint.py  everything that the next round needs
ranks.py       its processes: which one does what, and what all must agree on
"""
