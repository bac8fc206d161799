"""One folder for each pipeline: its file, its cases, its data and its models."""
