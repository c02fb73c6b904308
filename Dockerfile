# syntax=docker/dockerfile:1
# The image of every component in docker-compose.airflow.yml: code and libraries, no settings and no secrets.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS libraries
RUN python -m venv --without-pip /opt/venv
COPY requirements-image.txt /tmp/
# Wheels only, each checked against its hash: nothing is compiled, so the same file installs the same libraries.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/venv/bin/python install --disable-pip-version-check --no-input --no-deps --require-hashes \
        --only-binary :all: -r /tmp/requirements-image.txt

FROM ${BASE} AS backline
# Pango renders PDFs, with these fonts.
RUN apt-get update \
    && apt-get install -y --no-install-recommends fonts-dejavu-core libpango-1.0-0 libpangoft2-1.0-0 \
    && rm -rf /var/lib/apt/lists/*
# The log folder is created here so that a volume mounted on it belongs to the user.
RUN groupadd --gid 10001 backline \
    && useradd --uid 10001 --gid backline --home-dir /var/lib/backline --no-create-home backline \
    && install -d -o backline -g backline -m 0700 /var/lib/backline /var/lib/backline/airflow /var/lib/backline/airflow/logs /var/lib/backline/archive
COPY --from=libraries /opt/venv /opt/venv
COPY plugins /opt/backline/plugins
COPY include /opt/backline/include
COPY dags /opt/backline/dags
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/backline/plugins:/opt/backline \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    AIRFLOW_HOME=/var/lib/backline/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/backline/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/backline/plugins \
    AIRFLOW__LOGGING__BASE_LOG_FOLDER=/var/lib/backline/airflow/logs
# Every task is a new process, which would compile our modules first without bytecode.
RUN python -m compileall -q /opt/backline/plugins
WORKDIR /opt/backline
USER backline

# With the mail catcher, for development: the profile `dev`.
FROM backline AS sandbox
COPY sandbox /opt/backline/sandbox
RUN install -d -m 0700 /var/lib/backline/mail
