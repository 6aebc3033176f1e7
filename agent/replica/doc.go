// Package replica keeps a standby's copy of the master's state: the datastore,
// row by row, and the identity (CA, keys, tokens), file by file.
//
// On the master a Source serves both over the peer port. On a standby a
// Follower opens the streams, writes to its own files below <data_dir>/replica,
// and knows its Position at every moment. Restoring a copy on promotion is done
// by the functions of replica/kine and replica/files, in the order that
// takeover gives them.
//
//	master                                     standby
//	kine → state.db → kine.Reader → Source ──▶ Follower → kine.Copy → state.db
//	files.Scanner ─────────────────────────▶ Follower → files.Mirror
//
// The stream (wire.go): a header, which lets the standby refuse a wrong cluster,
// an older term, an unknown layout or another history; rows in the order of
// their revisions; after a compaction the ids that survived it, and the
// compaction mark; and a beat every second and whenever the standby has been
// given everything. Nobody asks for anything: what the TCP window does not take
// waits in the master's database, not in memory.
//
// While a copy passes over a stretch that the master has already compacted, it
// is no state that ever was (an object's old row may be gone and its new one
// not there yet). So the Follower keeps such a stretch in one transaction, and
// a copy on disk is always either marked as incomplete (its first copy), or a
// state the master once had.
package replica
