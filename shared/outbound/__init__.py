"""Requests to URLs that somebody else has chosen, and events that go there."""
