"""What stands in the place of a norm and has no statistics, or none of its own."""
