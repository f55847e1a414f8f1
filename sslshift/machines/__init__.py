"""Studies on several machines: their state, read from their folders.

| file | what it holds |
|---|---|
| `status` | the state of every run of a study, from its files alone, on any machine |

The tests: `test_status`.
"""
