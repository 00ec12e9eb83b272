"""What a configuration will do, found out without training."""
