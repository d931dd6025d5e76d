"""Where a package can be run: an Ollama server or the embedded engine."""
