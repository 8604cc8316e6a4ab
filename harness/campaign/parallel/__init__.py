"""One campaign in several processes, here or on other machines."""
