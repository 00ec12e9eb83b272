"""Reports about saved runs: one HTML file, or tables as CSV, JSON and Markdown.

Reports read run folders and import no model code. The modules form a pipeline: `read`, then
`tables` and `series`, then `charts` and `pictures`, then `page`.
"""
