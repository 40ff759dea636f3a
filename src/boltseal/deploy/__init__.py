"""Images on engines: pulled by digest, kept before a newer one takes their name, brought back."""
