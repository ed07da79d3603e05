"""The commands of `ecar`, one file each: switches, and a function that hands them on."""
