"""Reports: statistics and tables from results."""
