# syntax=docker/dockerfile:1
# docker build --target cpu  -t ecar-lab . && docker run --rm -p 127.0.0.1:7860:7860 ecar-lab
# docker build --target cuda -t ecar-lab:cuda . && docker run --rm --gpus all -p 127.0.0.1:7860:7860 ecar-lab:cuda
FROM python:3.11-slim-bookworm AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
ENV HOME=/tmp PYTHONUNBUFFERED=1 GRADIO_ANALYTICS_ENABLED=False
WORKDIR /kit
COPY requirements.lock requirements.hashes.lock ./

# PyTorch's own index has the small build; its hash is another one's than the lock's.
FROM base AS cpu-packages
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN grep '^torch==' requirements.lock | xargs pip install --no-deps --index-url "$TORCH_INDEX"
RUN awk '/^[A-Za-z]/ { keep = !/^(torch==|triton==|nvidia-|cuda-)/ } keep' requirements.hashes.lock > cpu.lock
RUN pip install --no-deps --require-hashes -r cpu.lock

FROM base AS cuda-packages
RUN pip install --no-deps --require-hashes -r requirements.hashes.lock

FROM cpu-packages AS cpu
COPY setup.py pyproject.toml README.md LICENSE ./
COPY ecar_lab ecar_lab
COPY apps apps
COPY data data
COPY notebooks notebooks
RUN pip install --no-deps --no-build-isolation .
WORKDIR /tmp
USER 1000:1000
EXPOSE 7860
CMD ["ecar", "demo", "--host", "0.0.0.0"]

FROM cuda-packages AS cuda
COPY setup.py pyproject.toml README.md LICENSE ./
COPY ecar_lab ecar_lab
COPY apps apps
COPY data data
COPY notebooks notebooks
RUN pip install --no-deps --no-build-isolation .
WORKDIR /tmp
USER 1000:1000
EXPOSE 7860
CMD ["ecar", "demo", "--host", "0.0.0.0"]
