"""`python -m pipeline` is `dropdex`."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
