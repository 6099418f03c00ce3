"""Agents: one package for each, with its rules, its versions and its decisions."""
