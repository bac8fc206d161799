"""The parts of Penstock in flows of your own."""
