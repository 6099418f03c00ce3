"""Deliveries: claimed, handled and settled, each with its effects."""
