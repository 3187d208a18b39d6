"""The commands of ``python -m reproduce``, called verbs."""
