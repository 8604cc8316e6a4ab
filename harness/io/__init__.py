"""Files and JSON: written whole or not at all, read strictly."""
