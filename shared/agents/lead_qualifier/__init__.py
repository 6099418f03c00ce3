"""The lead qualifier: how good an enquiry is, by rules, and by a model within what the rules allow."""
