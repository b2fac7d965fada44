"""SEER inside other libraries. Each plug-in needs its library alone, and of ours only the freeze and the replay."""
