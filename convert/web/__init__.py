"""A page that runs an ensemble in a browser: static files, which any web server can serve."""
