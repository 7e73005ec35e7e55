# Serves the bundle at /bundle; holds no torch. From the repository's root: make image
FROM python:3.11-slim-bookworm AS packages
WORKDIR /src
COPY pyproject.toml constraints.txt docker/requirements.py docker/slim.py ./
# No pip in the environment. Byte code is compiled here, since the root file system is read-only later.
RUN python -m venv --without-pip /venv && \
    python requirements.py serving >requirements.txt && \
    pip --python /venv/bin/python install --no-cache-dir --constraint constraints.txt \
        --requirement requirements.txt && \
    pip --python /venv/bin/python uninstall --yes flatbuffers packaging protobuf && \
    python slim.py /venv

FROM packages AS code
COPY README.md LICENSE ./
COPY contracts contracts
COPY trainer trainer
COPY export export
COPY report report
COPY serving serving
COPY snapensemble snapensemble
RUN pip --python /venv/bin/python install --no-cache-dir --no-deps --target /app . && \
    ! PYTHONPATH=/app /venv/bin/python -c 'import torch' 2>/dev/null && \
    PYTHONPATH=/app /venv/bin/python -c 'import serving.worker'

FROM python:3.11-slim-bookworm
COPY --from=packages /venv /venv
COPY --from=code /app /app
COPY docker/healthcheck.py /app/
ENV PATH=/app/bin:/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 SNAPENSEMBLE_HOST=0.0.0.0 SNAPENSEMBLE_DRAIN_SECONDS=5 \
    SNAPENSEMBLE_LOG_FORMAT=json
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s CMD ["python", "/app/healthcheck.py"]
ENTRYPOINT ["snapensemble", "serve", "/bundle"]
