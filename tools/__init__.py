"""Commands for the library: each parses flags, calls the library, and prints.

`python -m tools.NAME` runs a tool in a checkout, `sslshift NAME` runs it from anywhere. To add a tool, write a module with a
`main` and a last block `if __name__ == "__main__": run_command(main)`; the first line of its docstring is its line in
`sslshift --help`.
"""
