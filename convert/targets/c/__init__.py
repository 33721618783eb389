"""An ensemble as C99 source for microcontrollers: no file system, no allocator, no runtime."""
