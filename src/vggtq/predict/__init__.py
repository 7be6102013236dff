"""Images to a prediction: options, memory, the pass itself; its files are written by `files`."""
