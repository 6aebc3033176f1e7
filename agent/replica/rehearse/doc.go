// Package rehearse tries on a standby what a promotion would do, beside what the host
// really does, and measures how long it takes.
//
// Two depths. The database: the copy is restored into a scratch folder, checked
// entirely, jumped ahead as for the next term, and the canary that the last promotion
// wrote is read from it. The control plane: the programs of the host's own units are
// started on that, with their own command lines, in which the datastore and the identity
// are those of the scratch folder; they must become ready and serve the canary.
//
// The programs run in a sandbox (see Sandbox): a network of their own in which there is
// nothing but they, no folder to write to but the scratch folder, little memory, and an
// end by itself. Nobody outside can take them for the master, and nothing that they do
// reaches the cluster.
package rehearse
