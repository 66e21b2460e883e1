"""A page in Chromium, and the web as a snapshot."""
