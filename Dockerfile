# docker build --tag cleanrl_cc .                                        on processors
# docker build --tag cleanrl_cc --build-arg TORCH=cu130 .                on NVIDIA GPUs; run it with --gpus all
# docker run --rm --volume "$PWD/runs:/app/runs" cleanrl_cc python cleanrl_cc/sac_drq.py --env-id CarRacing-v3
FROM python:3.12-slim

# EGL and OSMesa draw MuJoCo without a screen; a C++ compiler is for --compile.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libegl1 libgl1 libosmesa6 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
ARG TORCH=cpu
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/${TORCH} PIP_NO_CACHE_DIR=1 NVIDIA_DRIVER_CAPABILITIES=all

# Dependencies first: a change of the sources does not install them again.
COPY pyproject.toml README.md LICENSE ./
RUN mkdir cleanrl_cc && touch cleanrl_cc/__init__.py && pip install -e .
COPY . .

CMD ["python", "cleanrl_cc/sac_drq.py", "--env-id", "CarRacing-v3"]
