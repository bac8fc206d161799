# syntax=docker/dockerfile:1
# The launcher and its slots. Everything is installed from the lock with hashes; nothing is compiled or fetched at start.
#   docker build -t penstock .
#   docker run -e PENSTOCK_SEAL_KEY -e PENSTOCK_BOOTSTRAP=broker:9092 penstock run deploy/pipelines/claims/pipeline.yaml

FROM python:3.12-slim-bookworm AS build
WORKDIR /build
COPY deploy/locks/uv.txt deploy/locks/run.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement uv.txt \
    && uv venv --no-cache /opt/penstock \
    && uv pip sync --no-cache --python /opt/penstock/bin/python --require-hashes --compile-bytecode run.txt
COPY --chmod=755 <<'PENSTOCK' /opt/penstock/bin/penstock
#!/opt/penstock/bin/python
import sys

from console.cli import main

sys.exit(main())
PENSTOCK

FROM python:3.12-slim-bookworm
# USER is a number below, so that Kubernetes' runAsNonRoot can tell. A volume on /artefacts takes over its owner.
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin penstock \
    && install -d -o 10001 -g 10001 /artefacts
COPY --from=build /opt/penstock /opt/penstock
WORKDIR /opt/app
COPY dataflows dataflows
COPY operators operators
COPY state state
COPY models models
COPY console console
COPY deploy/__init__.py deploy/__init__.py
COPY deploy/pipelines deploy/pipelines
RUN python -m compileall -q .
ENV PATH=/opt/penstock/bin:$PATH \
    PYTHONPATH=/opt/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PENSTOCK_HOST=0.0.0.0 \
    PENSTOCK_METRICS_PORT=9100
USER 10001:10001
EXPOSE 9100
# SIGTERM: the launcher tells its slots to finish, commit and end.
STOPSIGNAL SIGTERM
# Imports take seconds on a busy machine: the start period is generous.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PENSTOCK_METRICS_PORT'] + '/healthz', timeout=4)"]
ENTRYPOINT ["penstock"]
CMD ["--help"]
