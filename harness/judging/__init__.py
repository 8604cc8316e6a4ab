"""Judges a result: checks, relations, votes, and the verdicts that they give."""
