"""Hold the way from problems to batches: sources, prompts, tokenization, exact steps."""
