"""Framework-neutral parts: works with neither PyTorch, MindSpore nor ONNX Runtime installed."""
