"""Figures that documents quote: one script per question."""
