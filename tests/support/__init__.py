"""What tests share: factories of small data sets and runs, the command line in process, processes to kill."""
