"""From one image to its class ids: what a runtime offers, and the protocols by which an image is judged."""
