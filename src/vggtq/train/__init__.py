"""The parts of training the small model beyond the network: data, losses, schedule."""
