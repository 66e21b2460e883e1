"""Heavy thinking measured: what generates for it, the solver, its measures and its report."""
