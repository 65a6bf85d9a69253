"""What both frameworks' networks share: plans, names of tensors, initial values, dropout masks."""
