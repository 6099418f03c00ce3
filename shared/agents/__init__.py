"""Agents: one package for each, with its rules, its versions and what it decides."""
