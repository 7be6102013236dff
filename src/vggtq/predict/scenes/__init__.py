"""Many scenes with one command: which folders they are, who predicts which of them, and what became of each."""
