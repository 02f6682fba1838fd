"""One module per command. Heavy imports happen inside the functions, so that startup is quick."""
