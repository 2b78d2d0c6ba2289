"""The gateway: an OpenAI-compatible server that puts each domain's prompt and a release's adapter before an engine.

app.py       routes and what each answers            openai.py    the shapes of requests and answers
live.py      releases in force: swap, canary, shadow encode.py    conversations that cannot leave their turns
worker.py    the engine, in a process of its own     keys.py      who may ask, and how much
feedback.py  responses remembered, rewards           metrics.py   figures for Prometheus
"""
