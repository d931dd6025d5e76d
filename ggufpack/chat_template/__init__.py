"""From a checkpoint's chat template to the same prompt in Ollama."""
