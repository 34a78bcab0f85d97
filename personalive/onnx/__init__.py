"""The networks as ONNX files: writes them, checks them, and runs them for the engine."""
