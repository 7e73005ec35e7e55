"""What a run was like, as one page with pictures."""
