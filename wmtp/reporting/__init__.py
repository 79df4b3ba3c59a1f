"""Hold the reports: Markdown, plots and the token heat map. Reads results, trains nothing."""

from wmtp.reporting.evaluation import write_evaluation_report
from wmtp.reporting.model_card import model_card
from wmtp.reporting.report import write_report

__all__ = ["model_card", "write_evaluation_report", "write_report"]
