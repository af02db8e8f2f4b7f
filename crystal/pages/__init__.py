"""The pages that people open: reports with pictures and charts, each a single HTML file."""
