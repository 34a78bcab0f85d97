# The image with Ray, for `personalive serve-jobs` and for the nodes of a Ray cluster.
ARG BASE_IMAGE=personalive
FROM ${BASE_IMAGE}

USER 0:0
RUN pip install --no-cache-dir "ray[data,serve]==2.60.*" "pyarrow<26" "prometheus_client==0.26.0"
USER 1000:1000
