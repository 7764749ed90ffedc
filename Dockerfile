# One image for every process of Taskmill: docker build --tag taskmill:dev .
# It fetches from the package index only what the locks name, by hash. docs/howto/image.md tells what is in it.

# The packages alone: a change of our sources builds nothing before the next stage, and ships no layer of them again.
FROM python:3.13-slim-trixie AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# `strip`, for the next step, and the first process of a container: what Debian's suite has, which moves in its fixes alone.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends binutils tini && rm -rf /var/lib/apt/lists/*
WORKDIR /build
RUN python -m venv --without-pip /opt/taskmill
COPY requirements.lock ./
# A third of what the packages bring is for who builds or debugs them: C sources and the symbols of libraries. Pillow is
# left out as ffmpeg is: images and videos are the work of an image made from this one.
RUN pip --python /opt/taskmill/bin/python install --require-hashes --no-deps --only-binary :all: --requirement requirements.lock \
    && pip --python /opt/taskmill/bin/python uninstall --yes pillow \
    && find /opt/taskmill -name '*.so' -exec strip --strip-unneeded {} + \
    && find /opt/taskmill -regex '.*\.\(c\|cpp\|h\|hpp\|pxd\|pyx\)' -delete

FROM packages AS project
RUN python -m venv --without-pip /opt/backend
COPY requirements-build.lock ./
RUN pip --python /opt/backend/bin/python install --require-hashes --no-deps --only-binary :all: --requirement requirements-build.lock
COPY LICENSE README.md pyproject.toml ./
COPY scripts/notices.py scripts/
COPY src src
RUN /opt/taskmill/bin/python scripts/notices.py > THIRD_PARTY.txt \
    && /opt/backend/bin/python -m hatchling build --target wheel --directory dist \
    && pip --python /opt/taskmill/bin/python install --no-index --no-deps --prefix /project dist/*.whl

FROM python:3.13-slim-trixie
LABEL org.opencontainers.image.title="Taskmill" \
      org.opencontainers.image.description="A self-hosted, durable, distributed task queue" \
      org.opencontainers.image.licenses="MIT"
ENV PATH=/opt/taskmill/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TASKMILL_DATA=/data \
    TASKMILL_HOST=0.0.0.0 \
    TASKMILL_METRICS_HOST=0.0.0.0 \
    TASKMILL_METRICS_PORT=9464
# The only folder that is written to, besides /tmp: the root may be read-only.
RUN install --directory --owner=10001 --group=10001 --mode=750 /data
COPY --from=packages /usr/bin/tini /usr/bin/tini
COPY --from=packages /usr/share/doc/tini/copyright /usr/share/doc/tini/copyright
COPY --from=packages /opt/taskmill /opt/taskmill
COPY --from=project /project /opt/taskmill
WORKDIR /app
COPY --from=project /build/LICENSE /build/THIRD_PARTY.txt ./
VOLUME /data
# By number: an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 3000 9464
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["taskmill", "probe"]
# With one of: api, worker, scheduler, migrate, up. tini buries what a handler's programs leave behind: to Python they are strangers.
ENTRYPOINT ["tini", "--", "taskmill"]
