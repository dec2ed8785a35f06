"""Files that ship with the package: the brain template, and the script and style of the explorers."""
