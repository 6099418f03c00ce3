"""Requests to URLs that somebody else has chosen, and the events that are sent there."""
