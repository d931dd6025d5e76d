"""Learns a Go TEMPLATE from a chat template's own renders."""
