"""SGDR training: images in, a run directory with one snapshot per cycle out."""
