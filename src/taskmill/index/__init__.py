"""Redis (or Valkey) proposes work: the index of ready tasks, wake-ups, and the embedded server.

`connect` reaches a server of any kind, `index` holds the typed calls of the scripts in lua/, `wake` the bells,
`embedded` the bundled Valkey. Nothing here is the record: all of it can be flushed at any time (DESIGN.md, part 2).
"""
