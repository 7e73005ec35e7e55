# Trains, exports and evaluates in /work. From the repository's root: make image-trainer
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt docker/requirements.py ./
# Where torch comes from, if not from pip's usual index, whose wheels bring 2 GB for GPUs.
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
RUN python -m venv --without-pip /venv && \
    python requirements.py train pretrained serving client >requirements.txt && \
    pip --python /venv/bin/python install --no-cache-dir --constraint constraints.txt \
        --requirement requirements.txt
COPY README.md LICENSE ./
COPY contracts contracts
COPY trainer trainer
COPY export export
COPY report report
COPY serving serving
COPY snapensemble snapensemble
RUN pip --python /venv/bin/python install --no-cache-dir --no-deps --target /app .

FROM python:3.11-slim-bookworm
COPY --from=build /venv /venv
COPY --from=build /app /app
# A new volume at /work takes this owner.
RUN install --directory --owner 10001 --group 10001 /work
ENV PATH=/app/bin:/venv/bin:$PATH PYTHONPATH=/app PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 HOME=/tmp \
    SNAPENSEMBLE_CACHE=/tmp/snapensemble
WORKDIR /work
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["snapensemble"]
ARG VERSION=unknown
ARG COMMIT=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="snapensemble-trainer" \
    org.opencontainers.image.description="Trains, exports and evaluates a snapshot ensemble" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.base.name="python:3.11-slim-bookworm" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$COMMIT" \
    org.opencontainers.image.created="$CREATED"
