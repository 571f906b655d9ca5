"""The sections of the page, one file each; a section that the runs have nothing for is None."""
