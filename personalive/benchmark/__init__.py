"""How fast this machine is: a model with random weights, and what it does measured part by part."""
