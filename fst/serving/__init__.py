"""The gateway: an OpenAI-compatible server that puts each domain's prompt and a release's adapter before an engine.

app.py       routes, errors, accounting              answering.py  one request: domain, prompt, engine, log
live.py      releases in force: swap, canary, shadow router.py     the domain of a question, and its novelty
worker.py    the engine in a separate process        threads.py    an engine that already is a server
openai.py    the shapes of requests and answers      encode.py     conversations without injected control tokens
keys.py      API keys and rate limits                feedback.py   responses remembered, rewards
patience.py  how long to wait for an answer          metrics.py  figures for Prometheus
build.py     builds the gateway from params.yaml, and runs it
"""
