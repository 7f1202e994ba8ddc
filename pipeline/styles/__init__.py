"""The shipped style pack, how packs are read and written, and how styles are asked for."""
