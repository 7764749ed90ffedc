"""The rules that no schema of Compose has, for the files that we ship."""
