"""The gateway: an OpenAI-compatible server that puts each domain's prompt and a release's adapter before an engine.

app.py       routes, errors, accounting              answering.py  one request: domain, prompt, engine, log
live.py      releases in force: swap, canary, shadow router.py     the domain of a question, and its novelty
worker.py    the engine in a process of its own      threads.py    an engine that is a server already
openai.py    the shapes of requests and answers      encode.py     conversations that cannot leave their turns
keys.py      API keys and rate limits                feedback.py   responses remembered, rewards
patience.py  how long an answer is waited for        metrics.py  figures for Prometheus
build.py     all of it from params.yaml, and running it
"""
