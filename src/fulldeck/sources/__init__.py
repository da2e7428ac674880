"""What the adapters read a user's own files with: columns, labels, given splits, pictures, arrays."""
