"""Whether rocks learn: losses over the steps, of groups that can be compared."""
