"""What run folders hold, as plain values: nothing here knows of HTML."""
