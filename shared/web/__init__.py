"""Requests and answers: what every endpoint needs, whoever calls it."""
