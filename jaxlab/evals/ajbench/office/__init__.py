"""Word, Excel and PowerPoint files, read and changed by tools."""
