"""What a run did, from its folder: one HTML file, or tables as CSV, JSON and Markdown.

Reads saved runs only, and imports no model code. `read` -> `tables`, `series` -> `charts`,
`pictures` -> `page`.
"""
