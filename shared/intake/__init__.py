"""Submissions of sites: a form is read, then recorded; lists are pulled."""
