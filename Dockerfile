# Vélib Predictor's images, one target each:
#   collector   collects, forecasts, retrains, backs up         docker build --target collector -t velib-collector:v1.0 .
#   inference   the API and the map                             docker build --target inference -t velib-api:v1.0 .
#   training    all models, the learned ones too (torch)        docker build --target training -t velib-training:v1.0 .
#   jupyter     the notebooks, with the project installed
#   mlflow      the tracking server
# The same commit makes the same image: packages are pinned (requirements*.txt, docker/*.txt), the base is named by version.

ARG PYTHON_IMAGE=python:3.11-slim-trixie

# -- what every image has ------------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS base
ENV LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PATH=/opt/velib/bin:$PATH
# A fixed number, so that the owner of a volume is known outside, too.
RUN groupadd --gid 10001 velib \
    && useradd --uid 10001 --gid velib --home-dir /app --shell /usr/sbin/nologin velib \
    && mkdir -p /app/data /app/models /app/backups /app/logs /app/mlruns /app/config \
    && chown -R velib:velib /app
WORKDIR /app

# -- the environment, made apart: compilers, caches and pip stay behind --------------------------------------
FROM base AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends binutils && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/velib && python -m venv /opt/builder && /opt/builder/bin/pip install --quiet setuptools==80.9.0
WORKDIR /src
COPY requirements.txt ./
RUN /opt/velib/bin/pip install --quiet --no-compile --no-deps -r requirements.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY src ./src
RUN /opt/builder/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/velib/bin/pip install --quiet --no-compile --no-deps /wheels/*.whl

# Figures are drawn where models are judged; a collector and an API draw none.
FROM build AS slim
COPY docker/slim.sh docker/check.py ./docker/
RUN /opt/velib/bin/pip uninstall --quiet --yes matplotlib contourpy cycler fonttools kiwisolver pillow pyparsing \
    && sh docker/slim.sh /opt/velib/lib/python3.11/site-packages \
    && /opt/velib/bin/python docker/check.py

# The API answers from stored forecasts: it asks no model, so it carries none, nor what runs one.
FROM slim AS serving
RUN rm -rf /opt/velib/lib/python3.11/site-packages/xgboost* /opt/velib/lib/python3.11/site-packages/scipy* \
        /opt/velib/lib/python3.11/site-packages/onnxruntime* \
    && /opt/velib/bin/python docker/check.py serving

# PostgreSQL's programs of the server's major version (see docker-compose.yml), without the Perl around them.
FROM base AS postgresql-client
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends postgresql-client-17 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*

FROM base AS runtime
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgomp1 liblz4-1 libpq5 libreadline8t64 libzstd1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=postgresql-client /usr/lib/postgresql/17/bin/pg_dump /usr/lib/postgresql/17/bin/pg_restore \
    /usr/lib/postgresql/17/bin/psql /usr/lib/postgresql/17/bin/
COPY config ./config
USER 10001:10001
# What is asked of a container that serves HTTP: /healthz says that the process lives and answers.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]

# -- collector -----------------------------------------------------------------------------------------------
FROM runtime AS collector
COPY --from=slim /opt/velib /opt/velib
VOLUME ["/app/data", "/app/models", "/app/backups"]
# `velib run` ends cleanly on SIGTERM by itself; its own API listens inside of the container only.
CMD ["velib", "run", "--every", "15m"]

# -- inference -----------------------------------------------------------------------------------------------
FROM runtime AS inference
COPY --from=serving /opt/velib /opt/velib
EXPOSE 8000
CMD ["velib", "serve", "--host", "0.0.0.0", "--port", "8000"]

# -- training ------------------------------------------------------------------------------------------------
FROM build AS deep
COPY requirements-deep.txt ./
# For a CPU build of torch give PIP_EXTRA_INDEX_URL, as pip reads it.
ARG PIP_EXTRA_INDEX_URL
RUN /opt/velib/bin/pip install --quiet --no-compile -c requirements.txt -r requirements-deep.txt

FROM runtime AS training
COPY --from=deep /opt/velib /opt/velib
HEALTHCHECK NONE
CMD ["velib", "retrain"]

# -- jupyter -------------------------------------------------------------------------------------------------
FROM build AS notebooks
COPY docker/requirements-jupyter.txt ./docker/
RUN /opt/velib/bin/pip install --quiet --no-compile --no-deps -r docker/requirements-jupyter.txt

FROM runtime AS jupyter
COPY --from=notebooks /opt/velib /opt/velib
EXPOSE 8888
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8888/api', timeout=4)"]
# The token comes from JUPYTER_TOKEN; Compose refuses to start without one.
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--port=8888", "--no-browser", "--notebook-dir=/app"]

# -- mlflow --------------------------------------------------------------------------------------------------
FROM build AS mlflow-server
COPY docker/requirements-mlflow.txt ./docker/
RUN python -m venv --clear /opt/velib \
    && /opt/velib/bin/pip install --quiet --no-compile --no-deps -r docker/requirements-mlflow.txt

FROM base AS mlflow
COPY --from=mlflow-server /opt/velib /opt/velib
RUN mkdir /mlflow && chown velib:velib /mlflow
USER 10001:10001
EXPOSE 5000
VOLUME ["/mlflow"]
ENV MLFLOW_DISABLE_TELEMETRY=true
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:5000/health', timeout=4)"]
CMD ["mlflow", "server", "--host=0.0.0.0", "--port=5000", "--workers=1", "--backend-store-uri=sqlite:////mlflow/mlflow.db", \
     "--artifacts-destination=/mlflow/artifacts", "--allowed-hosts=mlflow:5000,localhost:*,127.0.0.1:*"]
