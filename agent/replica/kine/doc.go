// Package kine reads, copies and restores the SQLite datastore of kine, the
// etcd shim under k3s.
//
// kine keeps everything in one table, `kine`, which is an append-only log: each
// create, update and delete is a new row, the row id is the revision that
// Kubernetes shows as resourceVersion. Two things only ever change old rows:
//
//   - compaction deletes rows that were superseded or are tombstones, and
//     writes how far it came into prev_revision of the row `compact_rev_key`;
//   - kine's poll loop fills an id that it found missing with a row
//     `gap-<id>` (deleted=1, no value), so that watches do not wait for it.
//
// So a copy needs three things: new rows by id, now and then the list of ids
// that survived compaction, and the value of compact_rev_key.
//
//   - Reader is the master's side: read-only, short transactions.
//   - Copy is the standby's side: the only writer of its own database, which is
//     itself a valid kine database.
//   - Verify, Aside, Install and Bump turn a copy into the live datastore.
//   - Compare finds where two databases differ, by checksums of ranges.
//
// Versions: kine 0.11 to 0.17 are recognised (see Schema); anything else is
// refused with a message that says what was found.
package kine
