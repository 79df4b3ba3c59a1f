"""Write checkpoints whole or not at all, read them without running code, find the last good one."""
