"""Many checkpoints: manifest, journal, executors."""
