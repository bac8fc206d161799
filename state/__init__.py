"""What is remembered: lane windows, the feature store, caches and the vault."""
