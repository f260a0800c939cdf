-- A journal. Rows are only ever appended while a run goes on, so that a commit touches few pages: which call has
-- which key, the client knows from memory.

CREATE TABLE runs (                 -- each time that a client had something to write
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started REAL NOT NULL,          -- s since 1970
    python TEXT NOT NULL,
    mainstay TEXT NOT NULL,
    argv TEXT NOT NULL              -- a JSON list
);

CREATE TABLE functions (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    version TEXT NOT NULL,          -- of the package that it is from
    UNIQUE (name, version)
);

CREATE TABLE hosts (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

CREATE TABLE calls (                -- each call that finished; a key stands in one row at the most
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,              -- 16 bytes
    failed INTEGER NOT NULL,
    function INTEGER NOT NULL,
    label TEXT NOT NULL,
    host INTEGER NOT NULL,
    worker INTEGER NOT NULL,
    started REAL NOT NULL,          -- s since 1970
    seconds REAL NOT NULL,          -- run time
    attempts INTEGER NOT NULL,
    size INTEGER NOT NULL,          -- bytes of the result
    run INTEGER NOT NULL
);

CREATE TABLE results (              -- pickles; in a table of its own, so that a listing does not read them
    call INTEGER PRIMARY KEY,
    body BLOB                       -- NULL where it stands in parts
);

CREATE TABLE parts (                -- of results that are large, or have buffers (arrays)
    call INTEGER NOT NULL,
    segment INTEGER NOT NULL,       -- 0: the pickle; 1, 2, …: its buffers
    part INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (call, segment, part)
) WITHOUT ROWID;
