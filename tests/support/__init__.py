"""What several test modules need; none of them imports another."""
