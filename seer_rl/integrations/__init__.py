"""SEER inside other libraries. Each file needs its library alone, and imports of ours only the freeze and the replay."""
