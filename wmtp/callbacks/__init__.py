"""Hold the Lightning callbacks, one small file each."""
