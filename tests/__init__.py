"""The tests of ggufpack."""
