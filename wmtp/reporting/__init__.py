"""Hold the reports: Markdown, plots and the token heat map. Reads results, trains nothing."""

from wmtp.reporting.report import write_report

__all__ = ["write_report"]
