"""What may break the library: threads, forks, strange arrays and values, fuzz, full memory and disks, interrupts."""
