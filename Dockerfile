# Serves the Cog HTTP interface on port 5000. Weights of others are not in it: they come into the cache at /cache.
# Another base works too (Debian 12, Ubuntu with Python 3.11): what it lacks is installed.
ARG BASE_IMAGE=pytorch/pytorch:2.5.1-cuda12.4-cudnn9-runtime
FROM ${BASE_IMAGE}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# OpenCV (in mediapipe) opens libGL and GLib; kernels are compiled at run time with gcc.
# The distribution keeps these current, so they are not pinned.
# hadolint ignore=DL3008
RUN packages=(ca-certificates gcc libc6-dev libgl1 libglib2.0-0) \
    && if ! python3 -c 'import ensurepip' 2>/dev/null; then packages+=(python3 python3-dev python3-venv); fi \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}" \
    && rm -rf /var/lib/apt/lists/*

# The environment sees the base's packages, so a torch that is there already is not fetched again. Its bin folder must
# be first on PATH: Cog starts its worker as plain `python`.
ENV VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH
COPY requirements-container.txt scripts/check_pins.py /opt/pins/
RUN python3 -m venv --system-site-packages /opt/venv \
    && pip install --no-cache-dir --requirement /opt/pins/requirements-container.txt \
    && python /opt/pins/check_pins.py /opt/pins/requirements-container.txt

RUN useradd --create-home --uid 1000 personalive \
    && mkdir -p /cache /app/outputs \
    && chown 1000:1000 /cache /app/outputs

WORKDIR /app
COPY . /app
# A checkout may be readable for its owner only; here another user runs it.
RUN chmod -R a+rX /app && pip install --no-cache-dir --no-deps --editable /app

# Without this file the server takes any input unchecked.
RUN mkdir -p .cog && python -m cog.command.openapi_schema >.cog/openapi_schema.json

# Kernels that were compiled for the GPU at hand are kept beside the weights.
ENV HF_HOME=/cache \
    TRITON_CACHE_DIR=/cache/personalive/triton \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video \
    PORT=5000
USER 1000:1000
EXPOSE 5000 7860

# The start may include a download of 8 GB.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60m --retries=3 CMD ["python", "scripts/health_check.py"]

CMD ["personalive", "cog", "--host", "0.0.0.0"]
