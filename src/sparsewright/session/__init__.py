"""Everything that touches the user's model and optimizer, and takes itself off again."""
