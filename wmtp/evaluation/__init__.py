"""Hold the evaluation: run generated programs safely and count what passes."""
