"""The page of a run: what each cycle, each snapshot and each average of snapshots came to."""
