"""Terminal tables, CSV and Parquet: one dialect for every command."""
