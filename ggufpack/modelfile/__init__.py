"""The Modelfile as data: derived, written as text, read back, or sent as a create request."""
