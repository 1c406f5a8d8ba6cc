"""What a plan or a run looks like to people: words, pictures and one self-contained page."""
