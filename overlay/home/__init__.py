"""A node's home: the files that outlive the process."""
