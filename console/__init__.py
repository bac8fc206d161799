"""Everything a person touches: command line, launcher, HTTP and the demo."""
