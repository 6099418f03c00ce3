"""Who calls: one module per kind of caller, and what each has to show."""
