# syntax=docker/dockerfile:1
# The node agent and nothing else: no compiler and no pip, in no layer. Needs the two base images and the package index.
# For both architectures: docker buildx build --platform linux/amd64,linux/arm64 .

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY requirements/run.txt requirements/build.txt requirements/
RUN python -m venv /opt/gpu-dra \
 && /opt/gpu-dra/bin/pip install --no-cache-dir --only-binary=:all: --require-hashes -r requirements/run.txt
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --only-binary=:all: --require-hashes -r requirements/build.txt
COPY pyproject.toml hatch_build.py README.md ./
COPY protos/ protos/
COPY deploy/examples/ deploy/examples/
COPY deploy/manifests/ deploy/manifests/
COPY driver/ driver/
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation -w /dist . \
 && /opt/gpu-dra/bin/pip install --no-cache-dir --no-deps /dist/*.whl
# The official client and what only it needs are two thirds of all there is, for programs in a person's kubeconfig.
RUN /opt/gpu-dra/bin/pip uninstall --yes kubernetes aiohttp-retry certifi charset-normalizer durationpy oauthlib \
    python-dateutil requests requests-oauthlib urllib3 websocket-client \
 && /opt/gpu-dra/bin/pip uninstall --yes pip setuptools \
 && find /opt/gpu-dra -name __pycache__ -prune -exec rm -r {} + \
 && /opt/gpu-dra/bin/python -m compileall -q /opt/gpu-dra/lib \
 && /opt/gpu-dra/bin/gpu-dra --version \
 && for module in node operate cli.inspect; do \
    /opt/gpu-dra/bin/python -B -c "import driver.$module" || exit 1; done

FROM python:3.11-slim-bookworm AS runtime
RUN python -m pip uninstall --yes pip setuptools wheel \
 && rm -rf /usr/local/lib/python3.11/ensurepip /usr/local/lib/python3.11/idlelib /usr/local/lib/python3.11/lib2to3

# Copied into an empty image, so that what was removed is in no layer.
FROM scratch
LABEL org.opencontainers.image.title="gpu-dra-driver" \
      org.opencontainers.image.description="Dynamic Resource Allocation (DRA) kubelet plugin for GPUs" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.base.name="python:3.11-slim-bookworm"
COPY --from=runtime / /
COPY --from=build /opt/gpu-dra /opt/gpu-dra
ENV PATH=/opt/gpu-dra/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MALLOC_ARENA_MAX=2
# Root, because the kubelet's socket directories and the CDI root belong to root; in fake mode a root without capabilities.
USER 0:0
ENTRYPOINT ["gpu-dra"]
CMD ["run"]
