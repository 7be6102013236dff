"""Many images in windows that overlap: which images are seen together, and how what is seen becomes one world."""
