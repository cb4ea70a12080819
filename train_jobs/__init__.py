"""Checked Parquet -> a calibrated model and a search index: encoder, losses, metrics and jobs."""
