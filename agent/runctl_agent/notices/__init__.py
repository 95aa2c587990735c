"""Sources of word that the machine will be taken."""
