"""From a portrait and a driving video to a file."""
