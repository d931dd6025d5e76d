"""How near the package's next-token distributions are to the trained model's."""
