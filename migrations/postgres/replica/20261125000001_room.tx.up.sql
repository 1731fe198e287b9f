-- Room in each page for the next version of a row, which then needs no new entries in the indexes (HOT). It holds for pages
-- filled from now on.
ALTER TABLE {{.Table "replica_revisions"}} SET (fillfactor = 80);
