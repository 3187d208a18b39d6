# Both frameworks with the CUDA of their wheels, on a Debian that is pinned by its digest.
#   docker build -t hvp-repro . && docker run --gpus all hvp-repro make all
ARG BASE_DIGEST=sha256:3783cc01769c7b2b1b83a5c5ad96c815348e28ed7da68e2e3687004faa906251
ARG BASE=debian:bookworm-20260918-slim@${BASE_DIGEST}
FROM --platform=linux/amd64 ${BASE}

# Debian's Python is 3.11; PyTorch compiles with g++ and Python's headers. Where the base
# names in its sources the snapshot that it was made from, the packages come from there.
RUN set -eu; \
    for sources in /etc/apt/sources.list.d/*.sources; do \
        [ -e "$sources" ] || continue; \
        awk '/^# http.*\/archive\// { snapshot = $2; next } \
             /^URIs:/ && snapshot { print "URIs: " snapshot; snapshot = ""; next } \
             { print }' "$sources" > /tmp/sources; \
        cat /tmp/sources > "$sources"; \
    done; \
    apt-get -o Acquire::Check-Valid-Until=false update; \
    apt-get install --yes --no-install-recommends python3 python3-dev python3-venv make gcc g++ libc6-dev; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/* /tmp/*

# As `make setup` does it, before the code, so that a change of the code leaves this layer be.
WORKDIR /hvp
COPY requirements.lock requirements-peers.lock requirements-test.lock ./
RUN set -eu; \
    python3 -m venv /opt/hvp; \
    /opt/hvp/bin/pip install --quiet --no-cache-dir --require-hashes --requirement requirements-test.lock; \
    VIRTUAL_ENV=/opt/hvp /opt/hvp/bin/uv pip sync --quiet --no-cache --require-hashes \
        --compile-bytecode requirements.lock requirements-peers.lock requirements-test.lock; \
    rm -rf /tmp/* /root/.cache

# With VERSIONS=2023, also the two environments with the article's versions.
COPY . .
ARG VERSIONS=
RUN set -eu; \
    python3 -m compileall -q reproduce paper_figures tests; \
    mkdir -p results; \
    chmod 1777 results; \
    [ -z "$VERSIONS" ] || UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 /opt/hvp/bin/python -c \
        "from reproduce.measuring.versions import LOCKS; [lock.environment() for lock in LOCKS['$VERSIONS']]"

# Any user may run it: nothing is written but results and /tmp. The requirement is what
# CUDA 12.8 needs at least (by NVIDIA's minor version compatibility).
ENV VENV=/opt/hvp \
    PATH=/opt/hvp/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    USER=hvp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTEST_ADDOPTS="-p no:cacheprovider" \
    RUFF_CACHE_DIR=/tmp/ruff \
    MYPY_CACHE_DIR=/tmp/mypy \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_REQUIRE_CUDA="driver>=525"
USER 10001:10001
CMD ["make"]

ARG BASE
ARG BASE_DIGEST
ARG REVISION=unknown
ENV HVP_REPRO_REVISION=${REVISION}
LABEL org.opencontainers.image.title="hvp-repro" \
      org.opencontainers.image.description="Measures and redraws every figure of the article 'How to compute Hessian-vector products?'" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
