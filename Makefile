lock: ## resolve the Python dependencies anew
	uv pip compile pyproject.toml --all-extras --generate-hashes --no-emit-index-url --universal --python-version 3.11 --quiet --custom-compile-command "make lock" -o requirements.txt
