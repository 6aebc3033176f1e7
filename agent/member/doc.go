// Package member is the gossip pool: who is there, at which address, alive or
// failed, and the few tags that everybody should know of everybody. It wraps Serf.
//
// # Coming back
//
// Serf's own snapshot file is not used: it writes while nothing changes, is not
// synced, and forgets failed members. Instead the address of every member ever
// met is kept in a small file, written when the set changes, and tried again for
// ever: within seconds while this host is alone, every minute for those that it
// knows and does not see. So a pool finds itself again after a power cut of
// everybody, and two halves of it after any partition.
//
// # A new address
//
// A host that starts with another address than before is taken for a second one
// of its name until the others have noticed that the old address is dead (some
// 10 s), and joins again until they have. One that changes its address while it
// runs calls [Pool.Restart]: it leaves and comes back at once.
//
// # Two hosts of one name
//
// The first stays, the others ignore the second, and every host that hears of it
// says so in its log; [Pool.Err] tells the two themselves. Serf's own way, which
// lets the second end itself, is off: nobody would be told why.
package member
