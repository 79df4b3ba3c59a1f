"""Show or submit what starts a run elsewhere: a command of torchrun, a job file of SLURM or VESSL."""
