"""Motor and home claims at first notice."""
