"""Studies: what learning is like with stored embeddings. `README.md` beside this says how to repeat each."""
