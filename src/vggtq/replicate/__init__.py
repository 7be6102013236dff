"""`vggtq replicate`: rows of a published table, measured again under that paper's protocol."""
