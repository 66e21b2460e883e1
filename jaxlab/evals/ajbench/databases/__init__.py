"""SQLite and PostgreSQL: reading without writing, and nothing outside."""
