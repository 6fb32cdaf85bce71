"""What the five scripts are made of; docs/development.md has the map of the rooms."""
