"""What one module promises, without a network, a disk or a clock where it can be."""
