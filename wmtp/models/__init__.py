"""Hold the models: H heads on a causal LM, loading, generation."""
