# CPU:   docker build --build-arg TORCH_INDEX=<index with CPU wheels of PyTorch> -t wmtp:cpu .
# CUDA:  docker build --build-arg VARIANT=cuda -t wmtp:cuda .
# Run:   docker run --rm -v wmtp-runs:/srv/wmtp/runs wmtp:cpu                        (the demo)
#        docker run --rm --gpus all -v wmtp-runs:/srv/wmtp/runs wmtp:cuda wmtp.train trainer=gpu
#
# The wheels of PyTorch bring their own CUDA libraries and the host its driver: a plain Python image serves both variants.
# BASE may be any Debian or Ubuntu image, one with the CUDA toolkit too, if its own python3 is 3.11 or newer.
ARG BASE=python:3.11-slim
FROM ${BASE}

# cuda adds the extra `gpu` and the C compiler with which triton builds its launchers.
ARG VARIANT=cpu
# Where torch comes from, for that one step. Without it: where pip always looks.
ARG TORCH_INDEX=

ENV PATH=/opt/wmtp/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The distribution's versions are the base image's; $packages is meant to be split.
# hadolint ignore=DL3008,SC2086
RUN set -eu; packages=""; \
    command -v python3 >/dev/null || packages="python3-dev python3-venv"; \
    [ "$VARIANT" = cpu ] || packages="$packages gcc libc6-dev"; \
    if [ -n "$packages" ]; then \
        apt-get update; \
        apt-get install -y --no-install-recommends $packages; \
        rm -rf /var/lib/apt/lists/*; \
    fi; \
    python3 -m venv /opt/wmtp; \
    useradd --create-home --uid 10001 wmtp

# The dependencies change seldom: they come before the code, from the two files that name them.
WORKDIR /srv/wmtp
COPY pyproject.toml constraints.txt ./
# No dependencies here, as an index of torch alone may not hold them; the next step adds them.
RUN PIP_INDEX_URL="$TORCH_INDEX" pip install --no-deps -c constraints.txt "$(grep '^torch==' constraints.txt)"
RUN python -c "import sys, tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extra = project['optional-dependencies']['gpu'] if sys.argv[1] == 'cuda' else []; \
print(*project['dependencies'], *extra, sep='\n')" "$VARIANT" > /tmp/requirements.txt && \
    pip install -c constraints.txt -r /tmp/requirements.txt && \
    rm /tmp/requirements.txt

COPY . .
RUN pip install --no-deps -e . && \
    mkdir runs && chown wmtp runs

# Programs written by models run inside: never as root.
USER 10001
VOLUME /srv/wmtp/runs
ENTRYPOINT ["python", "-m"]
CMD ["wmtp.train"]
