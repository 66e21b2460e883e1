"""What trajectories act on, opened for one unit and replayed."""
