"""Cameras of photographs: read from the files that people have, and checked against the photographs."""
