"""What the tests stand on: real models, a real Ollama server, llama.cpp's own two-step path."""
