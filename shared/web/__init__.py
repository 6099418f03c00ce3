"""Requests and answers: the parts that every endpoint needs, whoever calls it."""
