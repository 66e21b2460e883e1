"""What every program needs and no paper defines."""
