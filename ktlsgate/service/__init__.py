"""The process: the only room that knows arguments, files, signals and logs."""
