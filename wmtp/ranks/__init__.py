"""Meet the other processes of a run, share the model out among them, and bring it together again."""
