"""The patterns, one runnable workflow each, on the packages that are installed here."""
