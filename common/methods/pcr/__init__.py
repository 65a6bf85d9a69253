"""PCR: settings, and where its prototypes start."""
