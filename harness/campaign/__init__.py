"""Many cases against one subject: drawn, run, counted, shrunk and saved."""
