# Two stages: uv installs exactly what uv.lock says into /app/.venv, and only that folder goes
# into the image that runs. Both stages need the same Python, which the environment links to.
# To pin it: --build-arg BASE=python:3.13-slim@sha256:…
ARG BASE=python:3.13-slim
FROM ${BASE} AS builder

# Package indexes of your own and the certificates they need; they end with this stage.
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE

ARG UV_VERSION=0.13.9
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore "uv==${UV_VERSION}"

# Compiled here, and never checked against its source again: nothing changes in an image.
ENV PYC_INVALIDATION_MODE=UNCHECKED_HASH \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PROJECT_ENVIRONMENT=/app/.venv \
    UV_PYTHON_DOWNLOADS=never

WORKDIR /build
# The dependencies are a layer of their own: only a new lock makes it again.
COPY pyproject.toml uv.lock ./
COPY contracts/pyproject.toml ./contracts/
RUN uv sync --locked --no-dev --no-install-workspace

COPY README.md LICENSE ./
COPY contracts ./contracts
COPY service ./service
COPY db ./db
RUN uv sync --locked --no-dev --no-editable


FROM ${BASE}

LABEL org.opencontainers.image.title="order-service" \
      org.opencontainers.image.description="Every OrderCreated ends, exactly once in effect, as one order and one event, or as one dead letter" \
      org.opencontainers.image.licenses="Apache-2.0"

RUN groupadd --gid 10001 orders \
 && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin orders

COPY --from=builder /app/.venv /app/.venv
COPY deploy/healthcheck.py /app/healthcheck.py

# Nothing is written outside /tmp; SQLITE_PATH matters to the embedded default only.
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SQLITE_PATH=/tmp/orders.db

WORKDIR /app
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM

# Healthy is ready; and what is not live for long is ended, for the engine to start it again.
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "/app/healthcheck.py", "8000"]

CMD ["faststream", "run", "service.app:app", "--host", "0.0.0.0", "--port", "8000"]
