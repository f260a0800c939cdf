"""One file that holds an environment, and that nodes run from.

    environment ──look──▶ Environment ──plan──▶ files by their names in the tree ──write──▶ head + tar, compressed
                                                  ▲ shebangs, RUNPATHs, editable installs, bytecode
    the pool: file ──▶ bootstrap (node.sh) on each node ──▶ tree on local disk ──▶ agent

The tree is flat: the base interpreter, its standard library and all site-packages under one prefix, without a
`pyvenv.cfg`, so that Python finds its own from wherever the tree lies.
"""
