"""Passages of customers' texts that read like instructions to a machine: recognised, and left out."""
