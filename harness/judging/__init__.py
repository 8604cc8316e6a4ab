"""What is wrong with a result: checks, relations, votes, and the verdict that says so."""
