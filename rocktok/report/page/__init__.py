"""The report as files: a page with its figures, the numbers behind them, and tables."""
