# Serves the bundle at /bundle, or where a platform has put it; holds no torch. From the repository's root: make image
FROM python:3.11-slim-bookworm AS packages
WORKDIR /src
# `--build-arg EXTRAS="serving signing"` for SNAPENSEMBLE_VERIFY_KEY, `"serving zstd"` for its coding,
# `"serving grpc"` for --grpc-port.
ARG EXTRAS=serving
COPY pyproject.toml constraints.txt docker/requirements.py docker/slim.py ./
# Byte code is compiled here, since nothing can be written later. ONNX Runtime lists three packages
# that only its tools import: docs/decisions/0018-what-the-image-holds.md.
RUN python -m venv --without-pip /venv && \
    python requirements.py $EXTRAS >requirements.txt && \
    pip --python /venv/bin/python install --no-cache-dir --constraint constraints.txt \
        --requirement requirements.txt && \
    case " $EXTRAS " in *" signing "*) unused=flatbuffers ;; \
        *" grpc "*) unused="flatbuffers packaging" ;; \
        *) unused="flatbuffers packaging protobuf" ;; esac && \
    pip --python /venv/bin/python uninstall --yes $unused && \
    python slim.py /venv

FROM packages AS code
COPY README.md LICENSE ./
COPY contracts contracts
COPY trainer trainer
COPY export export
COPY report report
COPY serving serving
COPY snapensemble snapensemble
ENV PYTHONPATH=/app
RUN pip --python /venv/bin/python install --no-cache-dir --no-deps --target /app . && \
    /venv/bin/python -c 'import snapensemble.serving.process.worker' && \
    if /venv/bin/python -c 'import torch' 2>/dev/null; then echo 'torch is in it' >&2; exit 1; fi

# What is in it, as CycloneDX, and under which licences. Only `--target inventory` builds this.
FROM code AS inventory-maker
COPY docker/supply-chain.txt docker/debian.py ./
RUN python -m venv /tools && \
    PYTHONPATH= /tools/bin/pip install --no-cache-dir --constraint supply-chain.txt \
        cyclonedx-bom pip-licenses && \
    mkdir /inventory && \
    PYTHONPATH= /tools/bin/cyclonedx-py environment --pyproject pyproject.toml \
        --mc-type application --output-reproducible --output-format JSON \
        --output-file /inventory/sbom.cdx.json /venv/bin/python && \
    python debian.py /inventory/sbom.cdx.json && \
    PYTHONPATH= /tools/bin/pip-licenses --python /venv/bin/python --from=mixed --with-urls \
        --format=markdown --output-file /inventory/licences.md

FROM scratch AS inventory
COPY --from=inventory-maker /inventory /

FROM python:3.11-slim-bookworm
COPY --from=packages /venv /venv
COPY --from=code /app /app
COPY docker/healthcheck.py /app/
# The last one is what 512 MiB and one processor bear: docs/container.md.
ENV PATH=/app/bin:/venv/bin:$PATH PYTHONPATH=/app PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 SNAPENSEMBLE_HOST=0.0.0.0 SNAPENSEMBLE_DRAIN_SECONDS=5 \
    SNAPENSEMBLE_LOG_FORMAT=json \
    SNAPENSEMBLE_MAX_BYTES_IN_FLIGHT=251658240
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s CMD ["python", "/app/healthcheck.py"]
# Without a bundle it takes the one at /bundle, or where a platform has put it: docs/clients.md.
ENTRYPOINT ["snapensemble", "serve"]
ARG VERSION=unknown
ARG COMMIT=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="snapensemble-serving" \
    org.opencontainers.image.description="Averaged class probabilities of a snapshot ensemble over HTTP" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.base.name="python:3.11-slim-bookworm" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$COMMIT" \
    org.opencontainers.image.created="$CREATED"
