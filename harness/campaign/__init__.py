"""Many cases against one subject: what is drawn, counted, shrunk and kept."""
