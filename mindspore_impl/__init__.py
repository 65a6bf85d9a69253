"""The MindSpore backend; importing this package imports no framework, only quietens the one to come."""

import os

os.environ.setdefault("GLOG_v", "3")  # read by MindSpore when it is imported: errors only, no warnings
