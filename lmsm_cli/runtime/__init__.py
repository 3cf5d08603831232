"""What a process needs of its machine: files, display, device, memory, signals."""
