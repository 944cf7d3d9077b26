# One image for every process: `docker run dropdex watch`, `… worker embedding`, `… search TEXT`. The model is inside.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PATH=/opt/dropdex/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build

# The largest layers change seldom and come first. torch is named alone, so that its CPU build is taken; where that index
# cannot be reached, pip says so and takes the build that PyPI has, which is larger and works as well.
RUN python3 -m venv /opt/dropdex \
 && pip install --retries=0 --extra-index-url=https://download.pytorch.org/whl/cpu torch==2.13.0

COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
 && pip install --constraint=constraints.txt --requirement=requirements.txt

COPY README.md LICENSE ./
COPY pipeline pipeline
RUN pip install --no-deps .

# Converted here, the model is there when a container starts, and torch is never loaded in one.
RUN HOME=/tmp/home python -c "from pipeline.embedder import open_embedder; open_embedder('all-MiniLM-L6-v2', backend='openvino').warm()" \
 && mkdir -p /opt/dropdex/share/dropdex && cp -r /tmp/home/.cache/dropdex/models /opt/dropdex/share/dropdex/models \
 && chmod -R a+rX /opt/dropdex/share

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 dropdex \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/dropdex --no-create-home --shell /usr/sbin/nologin dropdex \
 && install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/dropdex
COPY --from=build /opt/dropdex /opt/dropdex

# Only these two are written to, so the rest may be read-only. Declared here, they belong to their user where ECS mounts them.
VOLUME ["/var/lib/dropdex", "/tmp"]
ENV PATH=/opt/dropdex/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    DROPDEX_STATE=/var/lib/dropdex HF_HOME=/var/lib/dropdex/huggingface
WORKDIR /var/lib/dropdex
USER 10001:10001
ENTRYPOINT ["dropdex"]
CMD ["--help"]
