"""Hold the reports: Markdown, plots and the token heat map. Reads results, trains nothing."""

from wmtp.reporting.evaluation import write_evaluation_report
from wmtp.reporting.report import write_report

__all__ = ["write_evaluation_report", "write_report"]
