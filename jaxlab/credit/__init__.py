"""Credit assignment: from rewards to advantages."""
