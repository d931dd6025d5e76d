"""Go's text/template as Ollama runs it: an AST, its text, a parser of that text, and an evaluator."""
