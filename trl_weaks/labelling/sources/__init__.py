"""Labels from outside: votes of people, answers of an API, comparisons of judges, models behind a server."""
