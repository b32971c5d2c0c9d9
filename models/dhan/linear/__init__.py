"""The linear model on features averaged along relations."""
