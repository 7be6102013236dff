"""What `vggtq predict` makes of images: maps, cameras, points, a sheet; one file per kind."""
