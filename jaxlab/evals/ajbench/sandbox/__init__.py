"""Of what environments are made: bounded tools, folders that they cannot leave, processes."""
