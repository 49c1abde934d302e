# The server with its worker. torch brings CUDA along; the machine needs NVIDIA's driver and container toolkit. Without a GPU the CPU build
# is gigabytes smaller: docker build --build-arg TORCH_OPTIONS="--index-url ...", with the address that PyTorch's install selector gives.
FROM python:3.11-slim-bookworm

ARG TORCH="torch==2.13.0"
ARG TORCH_OPTIONS=""
RUN pip install --no-cache-dir ${TORCH} ${TORCH_OPTIONS}

WORKDIR /app
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY kernels kernels
COPY tokenizer3d tokenizer3d
COPY pipelines pipelines
COPY videogen videogen
RUN pip install --no-cache-dir ".[server,postgresql]"

RUN useradd --create-home --uid 1000 videogen && mkdir /data && chown videogen /data
USER videogen
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["videogen", "serve", "--data", "/data"]
CMD ["--host", "127.0.0.1"]
