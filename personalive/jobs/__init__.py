"""The container's HTTP interface over many GPUs: a queue in front of processes that Ray Serve keeps running."""
