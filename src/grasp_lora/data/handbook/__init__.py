"""The Debian Administrator's Handbook: the text of the demo, in English and its translations."""
