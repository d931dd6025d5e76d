"""Ready configuration of programs that talk to a registered model."""
