# syntax=docker/dockerfile:1
# The node agent and nothing else: no compiler, no pip, no shell tools beyond what Debian's slim image has.

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY requirements/ requirements/
RUN python -m venv /opt/gpu-dra \
 && /opt/gpu-dra/bin/pip install --no-cache-dir --require-hashes -r requirements/run.txt \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/dev.txt
COPY pyproject.toml hatch_build.py README.md ./
COPY protos/ protos/
COPY deploy/examples/ deploy/examples/
COPY driver/ driver/
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation -w /dist . \
 && /opt/gpu-dra/bin/pip install --no-cache-dir --no-deps /dist/*.whl \
 && /opt/gpu-dra/bin/python -m compileall -q /opt/gpu-dra \
 && /opt/gpu-dra/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="gpu-dra-driver" \
      org.opencontainers.image.description="Dynamic Resource Allocation (DRA) kubelet plugin for GPUs"
COPY --from=build /opt/gpu-dra /opt/gpu-dra
ENV PATH=/opt/gpu-dra/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MALLOC_ARENA_MAX=2
# Root, because the kubelet's socket directories and the CDI root belong to root.
USER 0:0
ENTRYPOINT ["gpu-dra"]
CMD ["run"]
