"""Many animations with one command, on every GPU of a machine or of a cluster: it ends complete, whatever is killed."""
