"""Hold the pure maths: loss, weighting, pass@k. Imports torch and nothing of the rest of wmtp but its errors."""
