"""What training the small model takes beyond the network: data, losses, schedule."""
