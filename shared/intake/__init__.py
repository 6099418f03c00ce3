"""What sites send: a form is read, then recorded; lists are pulled."""
