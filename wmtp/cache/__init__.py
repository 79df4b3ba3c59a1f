"""Keep what is slow to make, named by the content of what it was made from."""
