"""On which image another one was built, and whether the base's tag means another image by now.

What decides is pure: facts (what an image is), sources (what is said of its base), match (what its layers prove), freshness
(is it outdated), changes (what is different), order (bases of bases first). `look` asks registries for what they need.
"""
