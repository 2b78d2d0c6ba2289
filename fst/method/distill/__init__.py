"""Distillation of an evolved prompt into the adapter.

weights.py  the slow weights with the distillation loss
job.py      the job that distils a finished run, and its measured result
"""
