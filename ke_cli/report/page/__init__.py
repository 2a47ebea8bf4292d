"""The report page: one file with tables, pictures, cases and configurations that asks no network for anything."""
