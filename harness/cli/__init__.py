"""The command `flashattest`: one module a subcommand, and what a terminal or GitHub is shown."""
