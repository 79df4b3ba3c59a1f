"""Hold the reports: Markdown, plots and the token heat map. Reads results, trains nothing."""
