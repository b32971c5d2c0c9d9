"""The series as arrays: blocks of the tensor, scale, calendar, splits of time, graphs of the modes."""
