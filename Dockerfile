# The project's images, a target each:
#
#   docker build --target gateway -t fst-gateway .     serves a channel's release
#   docker build --target worker  -t fst-worker .      runs flows and watches traffic; also a Prefect server
#   docker build --target trainer -t fst-trainer .     trains on its own, on one GPU or several
#
# torch is the CPU build unless TORCH_INDEX is empty: --build-arg TORCH_INDEX= for machines with GPUs.
# The project lies at /project, without what a project makes or is told (.dockerignore): models, traffic and keys come
# by volumes. A worker also needs .git, dvc.lock and the DVC cache: mount the checkout there.

FROM python:3.11-slim AS base
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV DO_NOT_TRACK=1 DVC_NO_ANALYTICS=1 GX_ANALYTICS_ENABLED=false HF_HUB_DISABLE_TELEMETRY=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
RUN useradd --uid 1000 --create-home fst \
    && install -d -o fst /project /project/traffic /project/models/fetched /project/reports /home/fst/.prefect
WORKDIR /project
COPY constraints.txt ./
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-deps --index-url "$TORCH_INDEX" -c constraints.txt torch; fi \
    && pip install -c constraints.txt torch
COPY --chown=fst . .

FROM base AS gateway
RUN pip install -c constraints.txt -e ".[serving,limits,s3,signing,otel]"
USER 1000
EXPOSE 8080
CMD ["fst", "serve", "--set", "serve.host=0.0.0.0"]

FROM base AS worker
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /project
RUN pip install -c constraints.txt -e ".[data,reasoning-gym,s3,signing,pipelines,monitoring,otel]"
USER 1000
CMD ["python", "-m", "pipelines", "deploy"]

FROM worker AS trainer
USER 0
RUN pip install -c constraints.txt -e ".[data,reasoning-gym,s3,signing,gguf,pipelines,monitoring,otel]"
USER 1000
ENTRYPOINT ["accelerate", "launch", "--config_file", "pipelines/accelerate/ddp.yaml", "-m", "fst.cli"]
CMD ["train", "--help"]
