"""The command line, ``libra-d2 COMMAND``: one module a command."""
