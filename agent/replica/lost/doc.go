// Package lost tells what a failover lost: the writes that an old master had
// acknowledged and the new one never saw.
//
// A promotion notes in the datastore up to which revision it has everything
// (kine.Fork: From), before it jumps the revisions ahead. The note is replicated
// with the rest, so every later copy knows where each promotion left the history
// before it. A database with another list of promotions left it there as well:
//
//	new   ... ──┬── From ═══ jump ═══▶ Gap ── rows of the new term ──▶
//	old         └── From+1 ... Head                                      what was lost
//
// From is the last common revision; the rows after it in the old database are
// what the new master never saw. Two jumps of the revision never meet (kine.Gap
// for each term between), so a revision after From means something else on
// either side and is not compared.
//
// Old databases lie on this host in three places: at the control plane's own
// path, while this host is a standby after it was the master; beside it, when a
// later promotion has set it aside; and beside the standby's copy, when that
// followed a master which was lost and was ahead of the one that came.
//
//   - Find lists them, and from which term on each is without its writes.
//   - Diff lists the objects in one.
//   - Write writes them out as files.
//
// Nothing is ever changed in an old database.
package lost
