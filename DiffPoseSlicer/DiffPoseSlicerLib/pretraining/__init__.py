"""Training the pose network of one patient, as a job in a folder. torch."""
