"""What stands in one place: settings, versions, addresses, names of environment variables, secrets."""
