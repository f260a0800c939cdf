"""What finished is written down, and does not run twice: keys of calls, and the file that holds results."""
