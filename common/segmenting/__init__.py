"""Pictures and videos in, class ids out: the command ``predict`` of every runtime, and the same from Python."""
