"""A network ready to run: from a checkpoint, an exported graph or a package folder."""
