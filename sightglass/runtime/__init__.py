"""What the image runs of this project: the canary, the storage Job, the repair of queue files."""
