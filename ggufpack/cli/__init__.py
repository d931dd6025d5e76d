"""The command line: click only, one file a command, no logic. Modules load their work late."""
