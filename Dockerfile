# mixqsam on the CPU, as `scripts/install` installs it:
#
#     docker build -t mixqsam .
#     docker run --rm -v "$PWD/out:/work/out" mixqsam demo -o out/demo
#     docker run --rm -v "$PWD:/work" mixqsam quantize --model sam-tiny --images photos/ --budget W4A4 -o out/w4a4
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/mixqsam && /opt/mixqsam/bin/python -m pip install --quiet --upgrade pip
# PyTorch's own index has the builds for the CPU; the Python package index has those with several GB of CUDA.
ARG TORCH_VERSION=2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/mixqsam/bin/python -m pip install --quiet --index-url "$TORCH_INDEX" "torch==${TORCH_VERSION}"
COPY . /source
RUN /opt/mixqsam/bin/python -m pip install --quiet '/source[demo,serve]'

FROM python:3.11-slim
COPY --from=build /opt/mixqsam /opt/mixqsam
ENV PATH=/opt/mixqsam/bin:$PATH XDG_CACHE_HOME=/cache
# Photographs are read and results written as a user without rights on the machine.
RUN useradd --create-home --uid 1000 mixqsam && mkdir /work /cache && chown mixqsam /work /cache
USER mixqsam
WORKDIR /work
VOLUME /cache
COPY --from=build /source/scripts/get-mobile-sam /opt/mixqsam/bin/get-mobile-sam
# Without a network while the image is built, the demonstration runs on the model in the package.
RUN python /opt/mixqsam/bin/get-mobile-sam >/dev/null 2>&1 || echo "MobileSAM was not fetched."
EXPOSE 8000
ENTRYPOINT ["mixqsam"]
CMD ["--help"]
