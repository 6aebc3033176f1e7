// Package health measures the host that the agent runs on and says what is wrong
// with it, before it dies.
//
// A [Monitor] reads some fifty small files of /proc and /sys in a round, one file of
// this package a collector, and fills one [Report]. A value that cannot be measured
// is unknown, never zero, and the report says why. What there is on the host, the
// disks, links and sensors, is looked for once a minute (inventory.go), and at once
// when something vanished.
//
// A [Judge] turns reports into [Condition]s, with hysteresis, so that nothing flaps;
// it is pure: it has neither clock nor files. weight.go says what each condition
// means for the one who holds or wants the lease, digest.go makes a line of them for
// gossip.
//
// The package knows nothing of clusters. Nothing is executed, and unless a probe is
// asked for nothing is written.
package health
