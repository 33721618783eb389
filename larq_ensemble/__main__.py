"""`python -m larq_ensemble`, the same as the console script."""

from larq_ensemble.cli import main

if __name__ == "__main__":
    main()
