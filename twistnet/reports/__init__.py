"""What many fine-tuning runs come to: collected, compared, and set as tables and figures.

`collect` finds the runs and keeps apart what is not alike, `statistics` compares, `tables` writes text, Markdown, LaTeX
and CSV, `figures`, `histories`, `confusion` and `maps` draw.
"""
