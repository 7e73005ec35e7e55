# Serves a bundle mounted at /bundle. Build from the repository's root:
#   docker build -f docker/serving.Dockerfile -t snapensemble-serving .
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY contracts contracts
COPY trainer trainer
COPY export export
COPY report report
COPY serving serving
COPY snapensemble snapensemble
RUN python -m venv /venv && \
    /venv/bin/pip install --no-cache-dir --constraint constraints.txt '.[serving]' && \
    ! /venv/bin/python -c 'import torch' 2>/dev/null

FROM python:3.11-slim-bookworm
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 \
    SNAPENSEMBLE_HOST=0.0.0.0 SNAPENSEMBLE_DRAIN_SECONDS=5
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", \
  "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.getenv('SNAPENSEMBLE_PORT', '8000') + '/health/ready', timeout=2)"]
ENTRYPOINT ["snapensemble", "serve", "/bundle"]
