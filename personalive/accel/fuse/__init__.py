"""The networks' layers with merged weights, for inference only."""
