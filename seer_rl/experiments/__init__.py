"""Many runs: begun, read, compared, drawn."""
