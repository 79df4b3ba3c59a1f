"""Hold a run: its directory, log and records, and what to do when it fails."""
