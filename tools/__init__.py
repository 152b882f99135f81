"""Programs for those who work on Linli itself."""
