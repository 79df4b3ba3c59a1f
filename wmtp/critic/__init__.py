"""Hold the critic: rewards of programs, a value fitted to them (stage 1), and what that value knows."""
