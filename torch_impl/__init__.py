"""The project in PyTorch."""

import os

# Large tensors on a CPU (Linux) live in large pages, which PyTorch asks for if this is set before its first tensor: the processor
# finds them faster and gets them in fewer pieces. The numbers are the same.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
